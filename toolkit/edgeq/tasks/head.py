"""A model's head: its entry in the table, its outputs, and what is needed to read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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
