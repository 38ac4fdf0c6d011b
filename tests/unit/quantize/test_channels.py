"""Channel statistics and layouts, against numpy on the whole data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.quantize.observers.channels import channel_statistics
from edgeq.quantize.observers.layout import Layout, layout_of, rows_of
from edgeq.quantize.observers.tensor import tensor_statistics


def random_rows(rows: int, channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, channels)).astype(np.float32)


@given(st.integers(2, 200), st.integers(1, 9), st.integers(0, 2**32 - 1), st.data())
def test_chunked_equals_whole(rows: int, channels: int, seed: int, data: st.DataObject) -> None:
    values = random_rows(rows, channels, seed)
    cut = data.draw(st.integers(1, rows - 1))
    whole = channel_statistics(values, gram=True)
    parts = channel_statistics(values[:cut], gram=True).merge(channel_statistics(values[cut:], gram=True))
    assert np.array_equal(parts.minimum, whole.minimum)
    assert np.array_equal(parts.maximum, whole.maximum)
    # n additions in float64 are off by at most n * 2**-53 of the sum of magnitudes, on either side.
    limit = 2 * rows * 2.0**-53
    wide = values.astype(np.float64)
    assert np.all(np.abs(parts.total - whole.total) <= limit * np.abs(wide).sum(axis=0))
    assert np.all(np.abs(parts.square_total - whole.square_total) <= limit * (wide**2).sum(axis=0))
    assert parts.gram is not None
    assert whole.gram is not None
    assert np.all(np.abs(parts.gram - whole.gram) <= limit * (np.abs(wide).T @ np.abs(wide)))


def test_moments_are_those_of_float64() -> None:
    values = random_rows(500, 4) * np.float32(1e4) + np.float32(3e4)
    found = channel_statistics(values, gram=True)
    wide = values.astype(np.float64)
    # 500 additions of positive terms: relative error below 500 * 2**-53; float32 would be off by 1e-6.
    assert found.mean_square == pytest.approx((wide**2).mean(axis=0), rel=500 * 2.0**-53)
    assert found.mean == pytest.approx(wide.mean(axis=0), rel=500 * 2.0**-53)
    assert found.gram == pytest.approx(wide.T @ wide, rel=500 * 2.0**-53)
    in_single = (values**2).mean(axis=0, dtype=np.float32)
    assert in_single != pytest.approx((wide**2).mean(axis=0), rel=500 * 2.0**-53)


def test_absmax_takes_the_larger_side() -> None:
    found = channel_statistics(np.array([[-3.0, 1.0], [2.0, 5.0]], np.float32))
    assert found.absmax.tolist() == [3.0, 5.0]


def test_gram_comes_only_on_request() -> None:
    assert channel_statistics(random_rows(3, 2)).gram is None


def test_merging_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(ValueError, match="2 channels with 3"):
        channel_statistics(random_rows(3, 2)).merge(channel_statistics(random_rows(3, 3)))
    with pytest.raises(ValueError, match="Gram"):
        channel_statistics(random_rows(3, 2)).merge(channel_statistics(random_rows(3, 2), gram=True))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    rows = random_rows(4, 3)
    rows[2, 1] = bad
    with pytest.raises(ValueError, match="finite"):
        tensor_statistics(rows)


def test_integers_are_refused() -> None:
    with pytest.raises(ValueError, match="int64"):
        tensor_statistics(np.arange(6).reshape(2, 3))


MASK = np.array([[1, 1, 0], [1, 0, 0]], bool)


def poisoned(shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, 1e9, np.float32)


def test_padding_is_dropped_from_tokens() -> None:
    tensor = poisoned((2, 3, 4))
    tensor[MASK] = random_rows(3, 4)
    for layout, array in ((Layout.TOKENS, tensor), (Layout.FLAT_TOKENS, tensor.reshape(6, 4))):
        assert np.array_equal(rows_of(array, layout, MASK), random_rows(3, 4))
    assert rows_of(tensor, Layout.TOKENS, None).max() == 1e9


def test_padding_is_dropped_from_heads() -> None:
    tokens = poisoned((2, 3, 2, 5))
    tokens[MASK] = random_rows(3, 10).reshape(3, 2, 5)
    heads = tokens.transpose(0, 2, 1, 3)
    assert np.array_equal(rows_of(heads, Layout.HEADS, MASK), random_rows(3, 10))
    assert np.array_equal(rows_of(heads.swapaxes(2, 3), Layout.HEADS_TRANSPOSED, MASK), random_rows(3, 10))


def test_scores_keep_real_queries_of_real_keys() -> None:
    scores = poisoned((2, 2, 3, 3))
    scores[0, :, :2, :2] = np.arange(8).reshape(2, 2, 2)
    scores[1, :, :1, :1] = [[[20]], [[30]]]
    rows = rows_of(scores, Layout.SCORES, MASK)
    assert rows.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7], [20, 30]]


def test_pooled_rows_are_not_masked() -> None:
    assert rows_of(random_rows(2, 4), Layout.POOLED, MASK).shape == (2, 4)


def test_nothing_is_copied_without_padding() -> None:
    tensor = random_rows(6, 4).reshape(2, 3, 4)
    assert np.shares_memory(rows_of(tensor, Layout.TOKENS, np.ones((2, 3), bool)), tensor)


def test_layouts_are_told_by_shape() -> None:
    assert layout_of((2, 3, 4), 2, 3) is Layout.TOKENS
    assert layout_of((6, 4), 2, 3) is Layout.FLAT_TOKENS
    assert layout_of((2, 4), 2, 3) is Layout.POOLED
    for shape in ((3, 2, 4), (5, 4), (2, 2, 3, 4), (6,)):
        with pytest.raises(ValueError, match="layout"):
            layout_of(shape, 2, 3)


def test_a_layout_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="axes"):
        rows_of(random_rows(6, 4), Layout.TOKENS, MASK)
    with pytest.raises(ValueError, match="mask"):
        rows_of(random_rows(8, 4).reshape(2, 4, 4), Layout.TOKENS, MASK)
