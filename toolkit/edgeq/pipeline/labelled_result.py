"""The task's own metric of one variant on labelled data, and what it says beside the original's."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from edgeq.bundle.manifest import Gate
from edgeq.quantize.bootstrap import Estimate

MATERIAL = 1.0
"""Points of a hundred; a smaller loss is not held against a variant, however certain it is."""

EXCLUDED = 5.0
"""Points of a hundred; where so large a loss cannot be excluded, labelled texts say nothing in a variant's favour."""
UNSEEN = 3.0
"""What no one of n samples shows may still befall 3 in n of all texts (95 %, rule of three)."""


class Verdict(StrEnum):
    """What labelled texts say of a variant beside its original."""

    PASSED = "passed"
    FAILED = "failed"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class LabelledResult:
    """The metric of one variant.

    Attributes:
        name: of the metric.
        value: with its bounds.
        original: the original's; None where there is none to compare with.
        drop: points of a hundred that the variant loses, sample by sample; None without an original.
    """

    name: str
    value: Estimate
    original: Estimate | None = None
    drop: Estimate | None = None

    def metrics(self) -> dict[str, float]:
        """By name, as `validate` prints them."""
        found = {
            self.name: self.value.value,
            f"{self.name}_low": self.value.low,
            f"{self.name}_high": self.value.high,
        }
        if self.original is not None and self.drop is not None:
            found |= {
                f"{self.name}_original": self.original.value,
                f"{self.name}_drop": self.drop.value,
                f"{self.name}_drop_low": self.drop.low,
                f"{self.name}_drop_high": self.drop.high,
            }
        return found

    @property
    def possible(self) -> float | None:
        """Points that may be lost: the upper 95 % bound, and at least what so few samples cannot show."""
        return None if self.drop is None else max(self.drop.high, 100 * UNSEEN / self.drop.n)

    @property
    def verdict(self) -> Verdict | None:
        """Failed where the loss is both certain and material, undecided where a large one is possible."""
        if self.drop is None or self.possible is None:
            return None
        # Asked so that a NaN is worse.
        if not (self.drop.low <= 0 or self.drop.value <= MATERIAL):
            return Verdict.FAILED
        return Verdict.PASSED if self.possible <= EXCLUDED else Verdict.UNDECIDED

    @property
    def decides(self) -> bool:
        """Whether they say something, for or against the variant."""
        return self.verdict in (Verdict.PASSED, Verdict.FAILED)

    @property
    def undecided(self) -> str | None:
        """Why they say nothing, for people; None where they decide or there is nothing to decide."""
        if self.verdict is not Verdict.UNDECIDED or self.drop is None:
            return None
        return (
            f"{self.drop.n} labelled texts do not decide: {self.name} may have lost {self.possible:.1f} points (95 %), "
            f"and {EXCLUDED:g} have to be excluded"
        )

    def to_json(self) -> dict[str, Any]:
        """As `validate --json` prints it."""
        found = {
            "metric": self.name,
            "n": self.value.n,
            "verdict": self.verdict,
            "possible_drop": self.possible,
        }
        return found | self.metrics()

    def gate(self, variant: str, output: str) -> Gate | None:
        """The verdict as a gate; None where there is none."""
        if self.drop is None or not self.decides:
            return None
        drop = self.drop
        rule = (
            f"{drop.n} labelled samples, paired bootstrap: fails where the drop is above {MATERIAL:g} point and its "
            f"95 % lower bound ({drop.low:.2f}) above 0"
        )
        return Gate(
            variant,
            output,
            f"{self.name}_drop",
            "<=",
            MATERIAL,
            rule,
            drop.value,
            self.verdict is Verdict.PASSED,
        )
