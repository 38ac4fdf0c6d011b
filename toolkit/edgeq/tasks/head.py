"""A model's head: its entry in the table, its outputs, and what is needed to read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeq.metrics import OutputComparison, has_choices
from edgeq.types import Array, Outputs, TensorSpec

if TYPE_CHECKING:
    from edgeq.tasks.comparison import TaskComparison
    from edgeq.tasks.entry import TaskEntry


COMPARED_VALUES = 1 << 20
"""Logits of a language model compared at once: 8 MB in each of the float64 arrays that metrics make."""


@dataclass(frozen=True, slots=True)
class Head:
    """One model's.

    Attributes:
        entry: of its kind.
        outputs: their specs.
        labels: by index; empty where the model names none.
        mask_id: id of the mask token; None without one.
    """

    entry: TaskEntry
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...] = ()
    mask_id: int | None = None

    def compare(self) -> TaskComparison:
        """An empty comparison of all outputs."""
        return self.entry.compare(self)

    def compare_each(self) -> list[OutputComparison]:
        """An empty comparison of each output by itself, in general terms."""
        return [OutputComparison(spec, self.entry.has_softmax) for spec in self.outputs]

    def compare_batch(
        self,
        comparisons: Sequence[OutputComparison],
        expected: Outputs,
        found: Outputs,
        mask: Array | None,
    ) -> None:
        """Add one batch to what `compare_each` gave.

        Args:
            comparisons: of the outputs, in their order.
            expected: of the original.
            found: of the other.
            mask: `[batch, sequence]`, nonzero at real tokens; None where nothing is padded.
        """
        for comparison in comparisons:
            name = comparison.spec.name
            for part in self._parts(expected[name]):
                kept = None if mask is None else mask[:, part]
                comparison.add(expected[name][:, part], found[name][:, part], kept)

    def _parts(self, output: Array) -> Iterator[slice]:
        """Positions compared at once: all, but of a vocabulary's logits so many as float64 arrays are small of."""
        if not self.entry.is_autoregressive:
            yield slice(None)
            return
        step = max(1, COMPARED_VALUES // (output.shape[0] * output.shape[2]))
        yield from (slice(start, start + step) for start in range(0, output.shape[1], step))

    @property
    def has_choices(self) -> bool:
        """Whether an output's rows choose one of several."""
        return self.entry.has_softmax and any(has_choices(spec) for spec in self.outputs)

    def has_direction(self, spec: TensorSpec) -> bool:
        """Whether the cosine of an output's rows means anything: of a single number it is the sign."""
        return self.entry.has_cosine and spec.shape[-1] != 1
