"""SmoothQuant's formula and its limits."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.quantize.equalize import MAX_RATIO, smooth_scale

ACTIVATION = np.array([1.0, 10.0, 100.0], np.float32)
WEIGHT = np.array([1.0, 1.0, 0.1], np.float32)


def test_the_published_formula_up_to_a_constant() -> None:
    expected = ACTIVATION**0.7 / WEIGHT**0.3
    found = smooth_scale(ACTIVATION, WEIGHT, 0.7)
    assert np.allclose(found / found[0], expected / expected[0], rtol=1e-5)
    assert np.exp(np.log(found).mean()) == pytest.approx(1, rel=1e-5)


def test_alpha_one_makes_activations_even() -> None:
    even = ACTIVATION / smooth_scale(ACTIVATION, WEIGHT, 1.0)
    assert np.allclose(even, even[0], rtol=1e-5)


def test_alpha_half_leaves_some_of_the_spread() -> None:
    even = ACTIVATION / smooth_scale(ACTIVATION, np.ones(3, np.float32), 0.5)
    assert even[2] / even[0] == pytest.approx(10, rel=1e-4)


def test_dead_channels_stay_within_the_ratio() -> None:
    found = smooth_scale(np.array([0.0, 1.0], np.float32), np.ones(2, np.float32), 1.0)
    assert found[1] / found[0] == pytest.approx(MAX_RATIO, rel=1e-3)


@pytest.mark.parametrize(("activation", "weight"), [([0, 0], [1, 1]), ([1, 1], [0, 0])])
def test_nothing_to_balance_is_left_alone(activation: list[float], weight: list[float]) -> None:
    assert smooth_scale(np.array(activation, np.float32), np.array(weight, np.float32), 0.7).tolist() == [
        1,
        1,
    ]
