"""What comparing a model's outputs with another's gives, whatever its kind."""

from __future__ import annotations

from typing import Protocol, TypeAlias

from edgeq.tasks.tokens import Tokens
from edgeq.types import Outputs

Metrics: TypeAlias = dict[str, dict[str, float]]
"""By output and name."""


class TaskComparison(Protocol):
    """One candidate beside the reference."""

    def add(self, expected: Outputs, found: Outputs, tokens: Tokens) -> None:
        """Compare one batch.

        Raises:
            ValueError: the shapes differ.
        """

    def metrics(self) -> Metrics:
        """Everything measured; `n` rows of each output."""

    def cosines(self) -> dict[str, list[float]]:
        """Of every row, by output; empty for outputs whose direction means nothing."""

    def relative_errors(self) -> dict[str, float]:
        """Mean over rows of `|found - expected| / |expected|`, by output."""
