"""A quantization range from a histogram: min-max, percentile, least squared error, least divergence.

Every function returns `(lo, hi)` with `lo <= 0 <= hi`, because a quantized tensor must hold zero exactly
(padding, ReLU). A range never reaches beyond the values seen (a symmetric one: beyond the largest magnitude).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeq.quantize.observers.histogram import HALF_BINS, Histogram

Float64Array = npt.NDArray[np.float64]


class Range(NamedTuple):
    """The interval that is quantized; values outside it saturate."""

    lo: float
    hi: float


def min_max(histogram: Histogram) -> Range:
    """Everything that was seen.

    Raises:
        ValueError: the histogram is empty.
    """
    if histogram.count == 0:
        raise ValueError("no range can be chosen from an empty histogram")
    return Range(min(histogram.minimum, 0.0), max(histogram.maximum, 0.0))


def percentile(histogram: Histogram, percent: float = 99.999) -> Range:
    """The range that holds at least `percent` % of the values, the rest cut equally on both sides.

    Cuts at the outer border of a bin: at most one bin wider than the exact quantile.

    Raises:
        ValueError: the histogram is empty or `percent` is not in (50, 100].
    """
    if not 50 < percent <= 100:
        raise ValueError(f"percentile {percent} is not in (50, 100]")
    full = min_max(histogram)
    outside = histogram.count * (100.0 - percent) / 200.0
    edges = histogram.edges
    from_below = np.cumsum(histogram.counts)
    from_above = np.cumsum(histogram.counts[::-1])
    lo = edges[:-1][np.argmax(from_below > outside)]
    hi = edges[1:][::-1][np.argmax(from_above > outside)]
    return Range(max(full.lo, min(float(lo), 0.0)), min(full.hi, max(float(hi), 0.0)))


def mse(histogram: Histogram, bits: int = 8, *, symmetric: bool = False) -> Range:
    """The range whose quantization has the least mean squared error.

    The known optimum (Choi et al. 2018 "PACT", Banner et al. 2019 "Post training 4-bit quantization") trades
    rounding against clipping. Here it is searched: both ends shrink together first, then each end by itself,
    over a grid that is refined around the best point. Symmetric ranges shrink one threshold.

    Args:
        histogram: of the tensor.
        bits: of the quantized type.
        symmetric: range `[-t, t]`, zero point in the middle.
    """
    full = min_max(histogram)
    seen = histogram.counts > 0
    values, weights = histogram.centers[seen], histogram.counts[seen].astype(np.float64)

    def error(lo: float, hi: float) -> float:
        return float(weights @ np.square(values - quantized(values, lo, hi, bits, symmetric=symmetric)))

    if symmetric:
        magnitude = max(-full.lo, full.hi)
        best = _shrink(lambda share: error(-share * magnitude, share * magnitude))
        return Range(-best * magnitude, best * magnitude)
    both = _shrink(lambda share: error(share * full.lo, share * full.hi))
    lo, hi = both * full.lo, both * full.hi
    for _ in range(2):
        lo = _shrink(lambda share: error(share * full.lo, hi)) * full.lo if full.lo < 0 else 0.0  # noqa: B023
        hi = _shrink(lambda share: error(lo, share * full.hi)) * full.hi if full.hi > 0 else 0.0  # noqa: B023
    return Range(lo, hi)


def entropy(histogram: Histogram, bits: int = 8) -> Range:
    """The range that loses least information, by Kullback-Leibler divergence.

    Migacz 2017 ("8-bit inference with TensorRT"): for each threshold the clipped distribution P, outliers
    added to its border bins, is compared with Q, the same bins averaged within each quantization level. Here
    the threshold cuts both signs, each no further than what was seen, so that one-sided tensors use all
    levels.

    Args:
        histogram: of the tensor.
        bits: of the quantized type.
    """
    full = min_max(histogram)
    levels = 1 << bits
    counts, width = _coarse(histogram)
    middle = len(counts) // 2
    below, above = _occupied(counts, middle)
    reach = max(below, above)
    divergences = {
        limit: _divergence(counts, middle - min(limit, below), middle + min(limit, above) + 1, levels)
        for limit in range(min(levels // 2, reach), reach + 1, 4)
    }
    limit = min(divergences, key=lambda key: (divergences[key], -key))
    threshold = (limit + 1) * width
    return Range(max(full.lo, -threshold), min(full.hi, threshold))


def clipped_share(histogram: Histogram, lo: float, hi: float) -> float:
    """Share of values outside `[lo, hi]`; in a bin that a border cuts, values count as evenly spread."""
    if histogram.count == 0:
        return 0.0
    edges, counts = histogram.edges, histogram.counts
    below = 0.0 if lo <= histogram.minimum else _count_below(edges, counts, lo)
    above = 0.0 if hi >= histogram.maximum else histogram.count - _count_below(edges, counts, hi)
    return (below + above) / histogram.count


def quantized(
    values: Float64Array, lo: float, hi: float, bits: int, *, symmetric: bool = False
) -> Float64Array:
    """Values after quantizing over `[lo, hi]` with an integer zero point, and back.

    Asymmetric types have `2 ** bits` levels; symmetric ones leave out the lowest, so that zero is in the
    middle.
    """
    steps = (1 << bits) - (2 if symmetric else 1)
    scale = (hi - lo) / steps
    if scale <= 0.0:
        return np.zeros_like(values)
    zero_point = np.rint(-lo / scale)
    levels = np.clip(np.rint(values / scale) + zero_point, 0, steps)
    result: Float64Array = (levels - zero_point) * scale
    return result


def _shrink(error: Callable[[float], float]) -> float:
    """The share in (0, 1] with the least error: a geometric grid, refined twice around its best point."""
    shares = np.geomspace(0.01, 1.0, 96)
    for _ in range(3):
        errors = [error(float(share)) for share in shares]
        at = len(errors) - 1 - int(np.argmin(errors[::-1]))  # the widest among equals
        best = float(shares[at])
        low, high = float(shares[max(at - 1, 0)]), float(shares[min(at + 1, len(shares) - 1)])
        shares = np.append(np.linspace(low, high, 9), best)
        shares.sort()
    return best


def _coarse(histogram: Histogram, half: int = 2048) -> tuple[Float64Array, float]:
    """Counts over `2 * half - 1` bins that reach as far as the values do, and their width.

    Fewer, wider bins than the histogram has: levels of a threshold near the maximum then average over
    several bins.
    """
    shift = (HALF_BINS // half).bit_length() - 1
    used = np.flatnonzero(histogram.counts)
    reach = int(np.max(np.abs(used - (HALF_BINS - 1)))) if len(used) else 0
    while shift > 0 and (reach >> shift) < half // 2:
        shift -= 1
    index = np.arange(1 - HALF_BINS, HALF_BINS)
    moved = np.sign(index) * (np.abs(index) >> shift)
    top = HALF_BINS >> shift
    counts = np.bincount(moved + top - 1, weights=histogram.counts, minlength=2 * top - 1)
    return counts.astype(np.float64), histogram.width * (1 << shift)


def _occupied(counts: Float64Array, middle: int) -> tuple[int, int]:
    """How many bins below and above the middle one are needed to hold every value."""
    used = np.flatnonzero(counts)
    return max(middle - int(used[0]), 0), max(int(used[-1]) - middle, 0)


def _divergence(counts: Float64Array, start: int, stop: int, levels: int) -> float:
    """KL(P || Q) of the bins `[start, stop)` against themselves in `levels` levels."""
    inside = counts[start:stop]
    clipped = inside.copy()
    clipped[0] += counts[:start].sum()
    clipped[-1] += counts[stop:].sum()
    level = np.arange(len(inside)) * min(levels, len(inside)) // len(inside)
    occupied = inside > 0
    totals = np.bincount(level, weights=inside)
    members = np.bincount(level, weights=occupied)
    spread = np.where(occupied, totals[level] / np.maximum(members[level], 1), 0.0)
    return _kl(_smoothed(clipped), _smoothed(spread))


def _smoothed(counts: Float64Array, share: float = 1e-4) -> Float64Array:
    """A distribution without zeros: empty bins share `share` of the mass."""
    total = counts.sum()
    if total == 0.0:
        return np.full(len(counts), 1.0 / len(counts))
    empty = counts == 0.0
    if not empty.any():
        return np.asarray(counts / total, np.float64)
    smoothed: Float64Array = np.where(empty, share / empty.sum(), counts / total * (1.0 - share))
    return smoothed


def _kl(p: Float64Array, q: Float64Array) -> float:
    return float(np.sum(p * np.log(p / q)))


def _count_below(edges: Float64Array, counts: npt.NDArray[np.int64], border: float) -> float:
    cumulative = np.concatenate([[0], np.cumsum(counts)]).astype(np.float64)
    return float(np.interp(border, edges, cumulative))
