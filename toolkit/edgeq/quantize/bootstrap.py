"""Bootstrap bounds: how far a metric could move with another sample of the same size.

Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13 (percentile intervals). Rows are resampled,
and a row holds the original's and the candidate's values for the same sample, so the comparison stays paired.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

ROUNDS = 1000
TAIL = 5.0
"""Percent beyond each bound: each holds with 95 % confidence by itself."""

Indices: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric on a sample of `n` rows, with its one-sided 95 % bounds."""

    value: float
    low: float
    high: float
    n: int


def bootstrap(statistic: Callable[[Indices], float], n: int, seed: int, rounds: int = ROUNDS) -> Estimate:
    """Estimate a statistic of rows `0 .. n-1`.

    Args:
        statistic: of the rows with these indices (repeated ones count as often).
        n: rows, at least 1.
        seed: of the resampling; two candidates with one seed see the same resamples.
        rounds: resamples.
    """
    if n < 1:
        raise ValueError("a bootstrap needs at least one row")
    rng = np.random.default_rng(seed)
    value = statistic(np.arange(n))
    resampled = [statistic(rng.integers(0, n, n)) for _ in range(rounds)]
    low, high = np.percentile(resampled, [TAIL, 100 - TAIL])
    # A statistic that is biased under resampling (a minimum) must not move the estimate out of its own bounds.
    return Estimate(value, min(float(low), value), max(float(high), value), n)


def rows_needed(estimate: Estimate, threshold: float) -> int:
    """About how many rows would tell the estimate from the threshold: bounds shrink with the square root of rows."""
    distance = abs(estimate.value - threshold)
    width = max(estimate.value - estimate.low, estimate.high - estimate.value)
    if distance == 0:
        return 10**9
    return int(np.ceil(estimate.n * (width / distance) ** 2))
