"""Ranges from histograms against brute force on the samples themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.quantize.observers.histogram import empty, histogram_of
from edgeq.quantize.observers.ranges import clipped_share, entropy, min_max, mse, percentile, quantized


def sample(kind: str, n: int = 40_000) -> np.ndarray:
    rng = np.random.default_rng(7)
    normal = rng.standard_normal(n)
    if kind == "normal":
        return normal.astype(np.float32)
    if kind == "outlier":
        return np.append(normal, [60.0, -45.0]).astype(np.float32)
    if kind == "gelu":
        return (normal * 0.5 * (1 + np.vectorize(math.erf)(normal / math.sqrt(2)))).astype(np.float32)
    if kind == "positive":
        return np.abs(normal).astype(np.float32)
    return rng.laplace(0, 1, n).astype(np.float32)


KINDS = ["normal", "outlier", "gelu", "positive", "laplace"]


def error(values: np.ndarray, lo: float, hi: float, bits: int, symmetric: bool = False) -> float:
    wide = values.astype(np.float64)
    return float(np.mean((wide - quantized(wide, lo, hi, bits, symmetric=symmetric)) ** 2))


def brute_force_error(values: np.ndarray, bits: int, *, symmetric: bool) -> float:
    """Least error over a dense grid of both ends, evaluated on the samples."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    shares = np.linspace(0.02, 1.0, 50)
    if symmetric:
        top = max(-low, high)
        return min(error(values, -share * top, share * top, bits, True) for share in shares)
    lows = shares if low < 0 else [1.0]
    return min(error(values, a * low, b * high, bits) for a in lows for b in shares)


def test_min_max_is_exact() -> None:
    values = sample("outlier")
    assert min_max(histogram_of(values)) == (-45.0, 60.0)
    assert min_max(histogram_of(np.array([2.0, 3.0], np.float32))) == (0.0, 3.0)
    assert min_max(histogram_of(np.array([-2.0, -3.0], np.float32))) == (-3.0, 0.0)


def test_an_empty_histogram_has_no_range() -> None:
    with pytest.raises(ValueError, match="empty"):
        min_max(empty())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("percent", [99.0, 99.9, 99.99])
def test_percentile_is_the_quantile_to_one_bin(kind: str, percent: float) -> None:
    values = sample(kind)
    histogram = histogram_of(values)
    lo, hi = percentile(histogram, percent)
    cut = int(len(values) * (100.0 - percent) / 200.0)
    exact = np.sort(values)
    exact_lo, exact_hi = min(float(exact[cut]), 0.0), max(float(exact[-1 - cut]), 0.0)
    # The border is the outer edge of the bin of the first value kept; the middle bin is two widths wide.
    assert exact_lo - 2 * histogram.width <= lo <= exact_lo + histogram.width
    assert exact_hi - histogram.width <= hi <= exact_hi + 2 * histogram.width
    assert np.mean((values < lo) | (values > hi)) <= (100 - percent) / 100


def test_percentile_cuts_what_min_max_keeps() -> None:
    histogram = histogram_of(sample("outlier"))
    assert percentile(histogram, 100.0) == min_max(histogram)
    assert percentile(histogram, 99.9).hi < 5 < min_max(histogram).hi


@pytest.mark.parametrize("percent", [50, 0, 100.1, math.nan])
def test_percentiles_outside_their_domain_are_refused(percent: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        percentile(histogram_of(sample("normal", 10)), percent)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_mse_is_as_good_as_brute_force(kind: str, bits: int, symmetric: bool) -> None:
    values = sample(kind, 4_000)
    lo, hi = mse(histogram_of(values), bits, symmetric=symmetric)
    # The search sees bin centers instead of samples, and descends one end at a time: 2 % of the best error.
    assert error(values, lo, hi, bits, symmetric) <= 1.02 * brute_force_error(
        values, bits, symmetric=symmetric
    )


def test_mse_beats_min_max_where_there_is_something_to_gain() -> None:
    values = sample("laplace")
    assert error(values, *mse(histogram_of(values), 4), 4) < 0.5 * error(
        values, *min_max(histogram_of(values)), 4
    )


def test_symmetric_mse_is_symmetric() -> None:
    lo, hi = mse(histogram_of(sample("gelu")), symmetric=True)
    assert lo == -hi


def naive_divergence(counts: np.ndarray, limit: int, levels: int) -> float:
    """The same definition, bin by bin, on one-sided counts: bins 0..limit kept."""
    inside = [float(count) for count in counts[: limit + 1]]
    clipped = list(inside)
    clipped[-1] += float(sum(counts[limit + 1 :]))
    groups: dict[int, list[int]] = {}
    for index in range(len(inside)):
        groups.setdefault(index * min(levels, len(inside)) // len(inside), []).append(index)
    spread = [0.0] * len(inside)
    for members in groups.values():
        used = [index for index in members if inside[index] > 0]
        for index in used:
            spread[index] = sum(inside[each] for each in members) / len(used)

    def smooth(numbers: list[float]) -> list[float]:
        zeros, total = sum(number == 0 for number in numbers), sum(numbers)
        keep = 1 - 1e-4 if zeros else 1.0
        return [number / total * keep if number else 1e-4 / zeros for number in numbers]

    return sum(p * math.log(p / q) for p, q in zip(smooth(clipped), smooth(spread), strict=True))


def test_entropy_is_the_naive_search() -> None:
    # 1023 bins of width 1 hold these values without coarsening, so that both searches see the same bins.
    rng = np.random.default_rng(3)
    bulk = np.abs(rng.standard_normal(50_000)) * 60.0
    values = np.floor(np.append(bulk, [700.0, 910.0, 1023.0])).astype(np.float32)
    values = values[values > 0]
    counts = np.bincount(values.astype(int), minlength=1024)
    candidates = range(128, 1024, 4)
    best = min(candidates, key=lambda limit: (naive_divergence(counts, limit, 256), -limit))
    # The histogram has these values in bins of width 1/8; the search works on bins of width 1/2.
    found = entropy(histogram_of(values), 8).hi
    assert abs(found - best) <= 0.1 * best
    assert found < 0.9 * float(values.max())


@pytest.mark.parametrize("kind", KINDS)
def test_entropy_cuts_lonely_outliers_and_keeps_the_bulk(kind: str) -> None:
    values = sample(kind)
    lo, hi = entropy(histogram_of(values))
    assert min_max(histogram_of(values)).lo <= lo <= 0 <= hi <= min_max(histogram_of(values)).hi
    assert np.mean((values < lo) | (values > hi)) < 0.02


def test_entropy_of_outliers_is_narrower_than_min_max() -> None:
    assert entropy(histogram_of(sample("outlier"))).hi < 30


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30))
@settings(max_examples=25, deadline=None)
def test_every_range_holds_zero_and_stays_inside(values: list[float]) -> None:
    histogram = histogram_of(np.array(values, np.float32))
    full = min_max(histogram)
    for lo, hi in (percentile(histogram, 99.9), mse(histogram, 8), entropy(histogram, 8)):
        assert full.lo <= lo <= 0.0 <= hi <= full.hi
        assert math.isfinite(lo)
        assert math.isfinite(hi)


@pytest.mark.parametrize("kind", KINDS)
def test_clipped_share_is_the_share_outside(kind: str) -> None:
    values = sample(kind)
    histogram = histogram_of(values)
    for lo, hi in ((-1.0, 1.0), (-0.1, 2.5), (-100.0, 0.5)):
        outside = float(np.mean((values < lo) | (values > hi)))
        # Exact but for the two bins that the borders cut.
        in_a_bin = 2 * float(histogram.counts.max()) / histogram.count
        assert abs(clipped_share(histogram, lo, hi) - outside) <= in_a_bin
    assert clipped_share(histogram, *min_max(histogram)) == 0.0
    assert clipped_share(histogram, -0.5, 0.5) > 0.1


def test_quantized_keeps_zero_and_saturates() -> None:
    values = np.array([-9.0, -1.0, 0.0, 1.0, 9.0])
    result = quantized(values, -1.0, 1.0, 8)
    scale = 2 / 255
    assert result[2] == 0.0
    assert np.all(np.abs(result[1:4] - values[1:4]) <= scale)
    assert np.abs(result).max() <= 1 + scale
