"""A histogram of fixed size whose bin width is a power of two.

Bins are indexed by `trunc(value / width)`: one bin around zero, equally many on both sides. When a value
does not fit, the width doubles, and bin `k` becomes bin `trunc(k / 2)`. Since `trunc(trunc(x / w) / 2) ==
trunc(x / 2w)` and dividing by a power of two is exact, the counts are those a single pass over all values at
the final width would have given: the result depends on the values alone, never on how they were cut into
chunks or ordered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeq.types import Array

Counts = npt.NDArray[np.int64]

HALF_BITS = 13
HALF_BINS = 1 << HALF_BITS
"""Bins on each side of zero; at least half of them are used, which is 32 per step of an 8-bit range."""
BINS = 2 * HALF_BINS - 1
MIN_EXPONENT = -100
"""Smallest width is 2**-100: still a normal float32, and so is its inverse."""
BLOCK = 1 << 17
"""Values counted at a time; keeps the temporaries in the processor's cache."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often each magnitude was seen.

    Attributes:
        exponent: bin width is `2 ** exponent`.
        counts: int64 `[BINS]`; entry `HALF_BINS - 1 + k` counts the values with `trunc(value / width) == k`.
        minimum: smallest value seen, exactly; `inf` when there was none.
        maximum: largest value seen, exactly; `-inf` when there was none.
    """

    exponent: int
    counts: Counts
    minimum: float
    maximum: float

    @property
    def width(self) -> float:
        """Bin width."""
        return math.ldexp(1.0, self.exponent)

    @property
    def count(self) -> int:
        """Number of values."""
        return int(self.counts.sum())

    @property
    def centers(self) -> npt.NDArray[np.float64]:
        """Middle of every bin, `[BINS]`; the bin around zero has twice the width."""
        index = np.arange(1 - HALF_BINS, HALF_BINS, dtype=np.float64)
        return (index + 0.5 * np.sign(index)) * self.width

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """Borders between bins in ascending order, `[BINS + 1]`."""
        below = np.arange(-HALF_BINS, 0, dtype=np.float64)
        return np.concatenate([below, -below[::-1]]) * self.width

    def merge(self, other: Histogram) -> Histogram:
        """The histogram of both sets of values, exactly."""
        exponent = max(self.exponent, other.exponent)
        counts = widen(self.counts, exponent - self.exponent) + widen(other.counts, exponent - other.exponent)
        return Histogram(exponent, counts, min(self.minimum, other.minimum), max(self.maximum, other.maximum))


def empty() -> Histogram:
    """A histogram of no values."""
    return Histogram(MIN_EXPONENT, np.zeros(BINS, np.int64), math.inf, -math.inf)


def histogram_of(values: Array, *, lowest: float | None = None, highest: float | None = None) -> Histogram:
    """Histogram of floating-point values of any shape.

    Args:
        values: finite float32 or float64 values (float16 is widened).
        lowest: their minimum, when the caller has it already.
        highest: their maximum, the same.

    Raises:
        ValueError: a value is NaN or infinite, or the dtype is not floating point.
    """
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"a histogram needs floating-point values, got {values.dtype}")
    flat = values.reshape(-1)
    if flat.size == 0:
        return empty()
    if flat.dtype not in (np.float32, np.float64):
        flat = flat.astype(np.float32)
    low = float(flat.min()) if lowest is None else lowest
    high = float(flat.max()) if highest is None else highest
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("a histogram needs finite values, got NaN or infinity")
    exponent = exponent_for(max(-low, high))
    # Adding 0.0 turns -0.0 into 0.0, so that equal data gives equal bytes.
    return Histogram(exponent, _count(flat, exponent), low + 0.0, high + 0.0)


def exponent_for(magnitude: float) -> int:
    """Smallest exponent whose bins hold `magnitude`: `magnitude < HALF_BINS * 2 ** exponent`."""
    return max(math.frexp(magnitude)[1] - HALF_BITS, MIN_EXPONENT) if magnitude > 0 else MIN_EXPONENT


def widen(counts: Counts, doublings: int) -> Counts:
    """Counts at `2 ** doublings` times the bin width."""
    if doublings == 0:
        return counts
    index = np.arange(1 - HALF_BINS, HALF_BINS)
    moved = np.sign(index) * (np.abs(index) >> min(doublings, 62))
    result = np.zeros_like(counts)
    np.add.at(result, moved + (HALF_BINS - 1), counts)
    return result


def _count(flat: Array, exponent: int) -> Counts:
    counts = np.zeros(BINS, np.int64)
    factor = flat.dtype.type(math.ldexp(1.0, -exponent))
    for start in range(0, flat.size, BLOCK):
        index = (flat[start : start + BLOCK] * factor).astype(np.int32)  # the cast truncates towards zero
        index += HALF_BINS - 1
        counts += np.bincount(index, minlength=BINS)
    return counts
