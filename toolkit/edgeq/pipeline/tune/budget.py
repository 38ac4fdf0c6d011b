"""What `--budget` may say."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgeq.comparison import parse_gate
from edgeq.errors import UsageError
from edgeq.quantize.bootstrap import Estimate

SIZE = "size"
SPEARMAN_DROP = "spearman_drop"
PERPLEXITY_RATIO = "perplexity_ratio"
ROW_METRICS = ("cosine_mean", "cosine_p01", "kl_mean", "relative_error_mean", "top1_agreement")
"""Metrics with a value per row, so that their sampling error can be told."""
UNITS = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
HINT = "write --budget cosine=0.995, spearman_drop=0.2, kl=0.01, perplexity_ratio=1.02 or size=12MB"


@dataclass(frozen=True, slots=True)
class Budget:
    """A bound on one metric; size is in bytes, `spearman_drop` in points of 100, `perplexity_ratio` a multiple."""

    metric: str
    op: str
    threshold: float

    def __str__(self) -> str:
        """As the user writes it."""
        if self.metric == SIZE:
            return f"size<={self.threshold / 1e6:.9g}MB"
        return f"{self.metric}{self.op}{self.threshold:g}"

    def met(self, value: float) -> bool:
        """Whether a value is inside; a NaN is not."""
        return value >= self.threshold if self.op == ">=" else value <= self.threshold

    def is_certain(self, estimate: Estimate) -> bool:
        """Whether the 95 % bound on the bad side is inside."""
        return self.met(estimate.low if self.op == ">=" else estimate.high)

    def distance(self, value: float) -> float:
        """How far a value is outside; negative inside."""
        return self.threshold - value if self.op == ">=" else value - self.threshold


def parse_budget(text: str) -> Budget:
    """Read a budget.

    Raises:
        UsageError: not of the form METRIC=X, METRIC>=X or METRIC<=X, or not a metric a budget can be put on.
    """
    if re.match(r"\s*size\b", text):
        return Budget(SIZE, "<=", _bytes(text))
    found = re.fullmatch(rf"\s*({SPEARMAN_DROP}|{PERPLEXITY_RATIO})\s*<?=\s*([0-9.]+)\s*", text)
    if found is not None:
        return Budget(found[1], "<=", _number(found[2], text))
    if "spearman" in text:
        raise UsageError(f"`{text}` is not a budget", hint="write spearman_drop=0.2, in points of 100")
    if "perplexity" in text:
        raise UsageError(f"`{text}` is not a budget", hint="write perplexity_ratio=1.02, of the original's")
    try:
        gate = parse_gate(text)
    except UsageError as error:
        raise UsageError(error.message.replace("gate", "budget"), hint=HINT) from error
    if gate.metric not in ROW_METRICS:
        raise UsageError(f"a budget cannot be put on {gate.metric}", hint=HINT)
    return Budget(gate.metric, gate.op, gate.threshold)


def _bytes(text: str) -> float:
    found = re.fullmatch(r"\s*size\s*<?=\s*([0-9.]+)\s*([A-Za-z]*)\s*", text)
    if found is None or found[2].upper() not in UNITS:
        raise UsageError(f"`{text}` is not a size budget", hint="write size=12MB (kB, MB, GB, KiB, MiB, GiB)")
    size = _number(found[1], text) * UNITS[found[2].upper()]
    if size <= 0:
        raise UsageError(f"the budget `{text}` leaves no room")
    return size


def _number(digits: str, text: str) -> float:
    try:
        return float(digits)
    except ValueError:
        raise UsageError(f"`{digits}` is not a number in the budget `{text}`") from None
