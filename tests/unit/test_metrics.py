"""Metrics against their definitions, and twins that show they notice a difference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from edgeq.metrics import (
    EXACT_DB,
    KNOWN_METRICS,
    OutputComparison,
    cosines,
    kl_divergences,
    largest,
    largest_difference,
    relative_errors,
    spearman,
    sqnr_db,
)
from edgeq.types import Role, TensorSpec

ROWS = arrays(np.float32, (4, 5), elements=st.floats(-100, 100, width=32))
EMBEDDING = TensorSpec("e", "float32", ("batch", 5), Role.SENTENCE_EMBEDDING)
LOGITS = TensorSpec("l", "float32", ("batch", 3), Role.LOGITS)
HIDDEN = TensorSpec("h", "float32", ("batch", "sequence", 2), Role.LAST_HIDDEN_STATE)
SPAN = TensorSpec("s", "float32", ("batch", "sequence"), Role.START_LOGITS)


@given(ROWS)
def test_a_row_is_parallel_to_itself_and_to_its_double(rows: np.ndarray) -> None:
    assert np.allclose(cosines(rows, rows), 1, atol=1e-12)
    assert np.allclose(cosines(rows, 2 * rows), 1, atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("other", [0.0, 1.0])
def test_what_is_not_finite_has_no_cosine_and_no_rank(bad: float, other: float) -> None:
    rows = np.array([[1.0, bad], [1.0, 2.0]])
    others = np.full((2, 2), other)
    for found in (cosines(rows, others), cosines(others, rows)):
        assert np.isnan(found[0]) and np.isfinite(found[1])
    order = np.arange(4.0)
    assert np.isnan(spearman(np.array([0, 1, bad, 3]), order))
    assert np.isnan(spearman(order, np.array([0, 1, bad, 3])))


def test_cosine_of_opposite_orthogonal_and_zero_rows() -> None:
    a = np.array([[1, 0], [1, 0], [1, 0], [0, 0]], np.float32)
    b = np.array([[-2, 0], [0, 3], [0, 0], [0, 0]], np.float32)
    assert cosines(a, b).tolist() == [-1, 0, 0, 1]


def test_relative_error_is_a_ratio_of_norms() -> None:
    assert relative_errors(np.array([[3.0, 4.0]]), np.array([[3.0, 4.5]])).tolist() == [0.1]


def test_kl_against_scipy() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.normal(size=(6, 4)), rng.normal(size=(6, 4))
    softmax = [np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (p, q)]
    assert np.allclose(kl_divergences(p, q), stats.entropy(softmax[0], softmax[1], axis=1), rtol=1e-9)
    assert np.allclose(kl_divergences(p, p + 5), 0, atol=1e-12)
    assert (kl_divergences(p, q) > 0).all()


def test_kl_of_huge_logits_is_finite() -> None:
    assert np.isfinite(kl_divergences(np.array([[1e4, -1e4]]), np.array([[-1e4, 1e4]]))).all()


@given(arrays(np.int64, 12, elements=st.integers(0, 5)), arrays(np.int64, 12, elements=st.integers(0, 5)))
def test_spearman_against_scipy_with_ties(x: np.ndarray, y: np.ndarray) -> None:
    if len(set(x)) == 1 or len(set(y)) == 1:
        return
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_sqnr() -> None:
    assert sqnr_db(100, 1) == pytest.approx(20)
    assert sqnr_db(1, 0) == EXACT_DB
    assert sqnr_db(0, 1) == -EXACT_DB


def test_padding_is_not_compared() -> None:
    reference = np.zeros((1, 3, 2), np.float32) + 1
    candidate = reference.copy()
    candidate[0, 2] = 99
    comparison = OutputComparison(HIDDEN)
    comparison.add(reference, candidate, np.array([[1, 1, 0]]))
    assert comparison.metrics()["n"] == 2 and comparison.metrics()["max_abs"] == 0
    unmasked = OutputComparison(HIDDEN)
    unmasked.add(reference, candidate, None)
    assert unmasked.metrics()["max_abs"] == 98


def test_spans_are_compared_over_real_tokens_only() -> None:
    reference = np.array([[5.0, 1.0, -1.0]], np.float32)
    candidate = np.array([[5.0, 1.0, 100.0]], np.float32)
    comparison = OutputComparison(SPAN)
    comparison.add(reference, candidate, np.array([[1, 1, 0]]))
    assert comparison.metrics()["top1_agreement"] == 1.0
    whole = OutputComparison(SPAN)
    whole.add(reference, candidate, None)
    assert whole.metrics()["top1_agreement"] == 0.0


def test_accumulating_equals_one_batch() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(6, 3)).astype(np.float32), rng.normal(size=(6, 3)).astype(np.float32)
    whole, parts = OutputComparison(LOGITS), OutputComparison(LOGITS)
    whole.add(a, b, None)
    for start in (0, 2):
        stop = start + 2 if start == 0 else 6
        parts.add(a[start:stop], b[start:stop], None)
    assert parts.metrics() == pytest.approx(whole.metrics(), rel=1e-12)
    assert whole.metrics()["top1_agreement"] < 1


def test_shapes_that_differ_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        OutputComparison(EMBEDDING).add(np.zeros((2, 5)), np.zeros((2, 4)), None)


def test_nothing_compared_is_no_success() -> None:
    with pytest.raises(ValueError, match="nothing was compared"):
        OutputComparison(EMBEDDING).metrics()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["reference", "candidate"])
@pytest.mark.parametrize("first", [True, False])
def test_one_value_that_is_not_finite_makes_every_metric_nan(bad: float, place: str, first: bool) -> None:
    """`max` drops a NaN that does not come first, a mean over many rows hides one, a clip keeps an infinity."""
    comparison = OutputComparison(TensorSpec("logits", "float32", ("b", 4), Role.LOGITS))
    good = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    damaged = good.copy()
    damaged[7, 2] = bad
    pair = (damaged, good) if place == "reference" else (good, damaged)
    for a, b in [pair, (good, good)] if first else [(good, good), pair]:
        comparison.add(a, b, None)
    found = comparison.metrics()
    assert found.pop("n") == 100
    assert {"cosine_mean", "kl_mean", "max_abs"} < set(found) < set(KNOWN_METRICS)
    assert np.isnan(list(found.values())).all()


def test_padding_may_hold_anything() -> None:
    comparison = OutputComparison(TensorSpec("h", "float32", ("b", "s", 4), Role.LAST_HIDDEN_STATE))
    a = np.ones((1, 3, 4), np.float32)
    b = a.copy()
    b[0, 2] = np.nan
    comparison.add(a, b, np.array([[1, 1, 0]]))
    assert comparison.metrics()["max_abs"] == 0


@pytest.mark.parametrize("values", [[np.nan, 1.0], [1.0, np.nan]])
def test_the_largest_of_numbers_keeps_a_nan(values: list[float]) -> None:
    assert np.isnan(largest(values))
    assert largest([1.0, 3.0, 2.0]) == 3.0


def test_the_largest_difference_of_what_is_not_finite_is_nan() -> None:
    a = np.array([1.0, np.inf], np.float32)
    assert np.isnan(largest_difference(a, a))
    assert largest_difference(np.array([1.0, -2.0]), np.array([1.5, 1.0])) == 3.0
    assert largest_difference(np.zeros(0), np.zeros(0)) == 0.0


def test_single_numbers_near_zero_are_relative_to_all_of_them() -> None:
    spec = TensorSpec("s", "float32", ("batch", 1), Role.LOGITS)
    comparison = OutputComparison(spec)
    for expected, found in (([[3.0], [1e-6]], [[3.1], [0.1]]), ([[-5.0]], [[-5.1]])):
        comparison.add(np.array(expected, np.float32), np.array(found, np.float32), None)
    rms = np.sqrt((9 + 25) / 3)
    assert comparison.relative_errors() == pytest.approx([0.1 / rms] * 3, rel=1e-4)
    assert comparison.metrics()["relative_error_mean"] == pytest.approx(0.1 / rms, rel=1e-4)
