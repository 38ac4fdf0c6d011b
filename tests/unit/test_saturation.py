"""Codes that cannot leave 16 bits, and the emulation of kernels in which others do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.graph.static_weight import nearest_codes
from edgeq.numerics import quantize_affine, symmetric_scale
from edgeq.quantize.error_feedback import FEEDBACK, feedback_codes
from edgeq.quantize.weight_only.quantized_weight import LayerStats
from edgeq.saturation import (
    PAIR_LIMIT,
    can_saturate,
    pair_safe_scale,
    pair_sums,
    round_pair_safe,
    saturating_product,
)

KINDS = ("normal", "heavy", "constant", "one-sided", "zeros")


def weight_of(kind: str, rows: int, columns: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    made = {
        "normal": lambda: rng.normal(size=(rows, columns)),
        "heavy": lambda: rng.standard_t(1.2, (rows, columns)),
        "constant": lambda: np.full((rows, columns), rng.choice([-1.0, 1.0]) * 0.37),
        "one-sided": lambda: rng.uniform(0.9, 1.0, (rows, columns)),
        "zeros": lambda: np.zeros((rows, columns)),
    }
    return (made[kind]() * 10.0 ** rng.integers(-6, 4)).astype(np.float32)


def extreme_activations(codes: np.ndarray) -> np.ndarray:
    """Rows of 255 where a column is positive (or negative), 0 elsewhere: what makes its pairs largest."""
    return np.concatenate([255 * (codes.T > 0), 255 * (codes.T < 0), np.full((1, len(codes)), 255)]).astype(
        np.uint8
    )


def exact_product(activations: np.ndarray, codes: np.ndarray) -> np.ndarray:
    return activations.astype(np.int64) @ codes.astype(np.int64)


def plain_codes(weight: np.ndarray) -> np.ndarray:
    """Eight bits per channel as everybody rounds them."""
    scale = symmetric_scale(np.abs(weight).max(axis=0), 8)
    return quantize_affine(weight, scale, np.zeros(scale.shape, np.int8), "int8", axis=1)


def stats_for(rows: int, seed: int, tokens: int = 400) -> tuple[LayerStats, np.ndarray]:
    x = np.random.default_rng(seed).normal(size=(tokens, rows)) @ np.random.default_rng(seed + 1).normal(
        size=(rows, rows)
    )
    return LayerStats((x**2).mean(axis=0).astype(np.float32), tokens, x.T @ x), x


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 41), st.integers(1, 9), st.integers(0, 10_000))
def test_no_pair_of_rounded_weights_can_leave_16_bits(kind: str, rows: int, columns: int, seed: int) -> None:
    weight = weight_of(kind, rows, columns, seed)
    found = nearest_codes(weight)
    assert found.largest_pair <= PAIR_LIMIT and not can_saturate(found.codes)
    activations = extreme_activations(found.codes)
    assert np.array_equal(
        saturating_product(activations, found.codes), exact_product(activations, found.codes)
    )
    # Rounding costs half a step; the member of a pair that gained most gives one step back.
    assert (np.abs(found.dequantize() - weight) <= found.scale * (1 + 1e-5)).all()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(KINDS), st.integers(2, 33), st.integers(1, 7), st.integers(0, 10_000))
def test_error_feedback_keeps_the_bound_and_never_loses(
    kind: str, rows: int, columns: int, seed: int
) -> None:
    weight = weight_of(kind, rows, columns, seed)
    stats, x = stats_for(rows, seed)
    found, plain = feedback_codes(weight, stats), nearest_codes(weight)
    assert not can_saturate(found.codes)
    losses = [np.square(x @ (item.dequantize() - weight)).sum(axis=0) for item in (found, plain)]
    # float32 sums of the objective against float64 ones here
    assert (losses[0] <= losses[1] * (1 + 1e-3) + 1e-12).all()


def test_error_feedback_gains_on_correlated_inputs() -> None:
    weight = weight_of("normal", 64, 32, 1)
    stats, x = stats_for(64, 5)
    found = feedback_codes(weight, stats)
    losses = [np.square(x @ (item.dequantize() - weight)).sum() for item in (found, nearest_codes(weight))]
    assert found.rounding == FEEDBACK and losses[0] < 0.5 * losses[1]


def test_too_few_calibration_tokens_mean_rounding_to_nearest() -> None:
    stats, _ = stats_for(16, 0, tokens=3)
    assert feedback_codes(weight_of("normal", 16, 4, 0), stats).rounding == "nearest"


@pytest.mark.parametrize("kind", ["normal", "one-sided"])
def test_plain_eight_bits_do_saturate(kind: str) -> None:
    """The negative twin: what the properties above hold of our codes, they must not hold of everybody's."""
    codes = plain_codes(weight_of(kind, 384, 64, 3))
    assert can_saturate(codes)
    activations = extreme_activations(codes)
    assert not np.array_equal(saturating_product(activations, codes), exact_product(activations, codes))


def test_the_emulation_saturates_in_pairs_and_not_beyond() -> None:
    activations = np.array([[255, 255, 255, 255, 255]], np.uint8)
    weight = np.array([[127, -127, 1], [127, -127, 0], [127, 127, 0], [127, -127, 0], [127, 0, 0]], np.int8)
    # Two full pairs and the odd one out; both signs; a pair of opposite signs cancels before it can saturate.
    assert saturating_product(activations, weight).tolist() == [[2 * 32767 + 255 * 127, -32768, 255]]


def test_pair_sums_golden() -> None:
    codes = np.array([[100, -100, 90], [28, -29, -90], [5, 0, -1]], np.int8)
    assert pair_sums(codes).tolist() == [[128, 129, 90], [5, 0, 1]]
    assert [can_saturate(codes[:, index : index + 1]) for index in range(3)] == [False, True, False]


def test_scales_golden() -> None:
    # Alone 127 steps; a pair of equal weights 64 each; opposite signs 127 each.
    weight = np.array([[1.0, 1.0, 1.0], [0.0, 1.0, -1.0]], np.float32)
    np.testing.assert_allclose(pair_safe_scale(weight), [1 / 127, 1 / 64, 1 / 127], rtol=1e-6)
    assert round_pair_safe(weight, pair_safe_scale(weight)).tolist() == [[127, 64, 127], [0, 64, -127]]


def test_a_pair_rounded_up_twice_gives_one_step_back() -> None:
    """Only the last bits of a float32 scale can bring a pair there: 64.5 and 63.5 would round to an even sum."""
    values = np.array([[70.6], [57.4], [64.500008], [63.500004], [-63.500004], [-64.500008]], np.float32)
    found = round_pair_safe(values, np.ones(1)).ravel().tolist()
    assert np.rint(values).ravel().tolist() == [71, 57, 65, 64, -64, -65]
    assert found == [71, 57, 65, 63, -63, -65]


def test_a_scale_that_is_too_small_is_a_fault_of_the_caller() -> None:
    with pytest.raises(AssertionError, match="pair_safe_scale"):
        round_pair_safe(np.ones((2, 1), np.float32), np.array([1 / 127]))
