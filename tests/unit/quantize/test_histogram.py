"""The histogram depends on the values alone, not on how they were cut or ordered."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeq.quantize.observers.histogram import (
    BINS,
    HALF_BINS,
    MIN_EXPONENT,
    Histogram,
    empty,
    exponent_for,
    histogram_of,
    widen,
)

CENTER = HALF_BINS - 1

finite32 = hnp.arrays(
    np.float32,
    st.integers(1, 60),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


def same(left: Histogram, right: Histogram) -> bool:
    return (
        left.exponent == right.exponent
        and left.counts.tobytes() == right.counts.tobytes()
        and (left.minimum, left.maximum) == (right.minimum, right.maximum)
    )


def merged(chunks: list[np.ndarray]) -> Histogram:
    total = empty()
    for chunk in chunks:
        total = total.merge(histogram_of(chunk))
    return total


@given(finite32, st.data())
def test_chunks_and_order_do_not_matter(values: np.ndarray, data: st.DataObject) -> None:
    whole = histogram_of(values)
    shuffled = values[data.draw(st.permutations(range(len(values))))]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=5)))
    assert same(merged(np.split(shuffled, cuts)), whole)


@given(finite32)
def test_every_value_lies_in_its_bin(values: np.ndarray) -> None:
    histogram = histogram_of(values)
    edges = histogram.edges
    index = np.repeat(np.arange(BINS), histogram.counts)
    exact = np.sort(values.astype(np.float64))
    assert np.all(edges[index] <= exact)
    assert np.all(exact <= edges[index + 1])
    assert histogram.count == len(values)


@given(finite32)
def test_bins_are_as_fine_as_the_range_allows(values: np.ndarray) -> None:
    magnitude = float(np.abs(values).max())
    histogram = histogram_of(values)
    assert magnitude < HALF_BINS * histogram.width
    if histogram.exponent > MIN_EXPONENT:
        assert magnitude >= HALF_BINS * histogram.width / 2


def test_counts_of_known_values() -> None:
    # Largest magnitude 8191 fits 8192 bins of width 1; -0.5 and 0.9 truncate into the bin around zero.
    histogram = histogram_of(np.array([8191.0, -0.5, 0.9, 1.0, -1.0, -2.5], np.float32))
    assert histogram.exponent == 0
    found = {int(i) - CENTER: int(histogram.counts[i]) for i in np.flatnonzero(histogram.counts)}
    assert found == {8191: 1, 0: 2, 1: 1, -1: 1, -2: 1}


def test_doubling_merges_neighbours() -> None:
    histogram = histogram_of(np.array([8191.0, 3.0, 2.0, -3.0], np.float32))
    wider = histogram.merge(histogram_of(np.array([8192.0], np.float32)))
    found = {int(i) - CENTER: int(wider.counts[i]) for i in np.flatnonzero(wider.counts)}
    assert wider.exponent == 1
    assert found == {4096: 1, 4095: 1, 1: 2, -1: 1}


def test_the_center_of_the_middle_bin_is_zero() -> None:
    histogram = histogram_of(np.array([8191.0], np.float32))
    assert histogram.centers[CENTER] == 0.0
    assert histogram.centers[CENTER + 1] == 1.5
    assert histogram.centers[CENTER - 1] == -1.5
    assert histogram.edges[CENTER : CENTER + 2].tolist() == [-1.0, 1.0]


def test_widening_by_any_amount_keeps_every_count() -> None:
    counts = np.arange(BINS, dtype=np.int64)
    for doublings in (1, 5, 13, 14, 200):
        assert widen(counts, doublings).sum() == counts.sum()
    assert widen(counts, 200)[CENTER] == counts.sum()


def test_zeros_of_both_signs_give_equal_bytes() -> None:
    plus, minus = histogram_of(np.zeros(3, np.float32)), histogram_of(np.full(3, -0.0, np.float32))
    assert math.copysign(1, minus.minimum) == 1
    assert same(plus, minus)


def test_float16_and_float64_are_counted() -> None:
    values = np.array([1.5, -2.25, 0.0])
    assert same(histogram_of(values.astype(np.float16)), histogram_of(values.astype(np.float32)))
    assert same(histogram_of(values), histogram_of(values.astype(np.float32)))
    assert histogram_of(np.array([1e300, -1.0])).count == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        histogram_of(np.array([1.0, bad], np.float32))


def test_integers_are_refused() -> None:
    with pytest.raises(ValueError, match="int64"):
        histogram_of(np.arange(3))


def test_exponents() -> None:
    assert exponent_for(0.0) == MIN_EXPONENT
    assert exponent_for(8191.9) == 0
    assert exponent_for(8192.0) == 1
    assert exponent_for(1.0) == -12


def test_the_comparison_can_fail() -> None:
    values = np.linspace(-1, 1, 50, dtype=np.float32)
    assert not same(histogram_of(values), histogram_of(values[1:]))
    assert not same(histogram_of(values), histogram_of(values * 2))
