"""A model's head: its entry in the table, its outputs, and what is needed to read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeq.metrics import OutputComparison, has_choices
from edgeq.types import TensorSpec

if TYPE_CHECKING:
    from edgeq.tasks.comparison import TaskComparison
    from edgeq.tasks.entry import TaskEntry


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

    @property
    def has_choices(self) -> bool:
        """Whether an output's rows choose one of several."""
        return self.entry.has_softmax and any(has_choices(spec) for spec in self.outputs)

    def has_direction(self, spec: TensorSpec) -> bool:
        """Whether the cosine of an output's rows means anything: of a single number it is the sign."""
        return self.entry.has_cosine and spec.shape[-1] != 1
