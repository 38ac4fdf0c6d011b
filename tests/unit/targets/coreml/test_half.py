"""Float16 rounding without a conversion: the same value as the conversion, for every float16 and between them."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.targets.coreml.interpreter.half import round_half
from edgeq.types import Array


def converted(values: Array) -> Array:
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


def every_boundary() -> Array:
    """All finite float16 values, the middles between neighbours, and the float32 values next to those."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    halves = np.unique(every[np.isfinite(every)])
    middles = ((halves[1:].astype(np.float64) + halves[:-1]) / 2).astype(np.float32)
    up, down = (np.nextafter(middles, np.float32(limit)) for limit in (np.inf, -np.inf))
    return np.concatenate([halves, middles, up, down])


def test_every_value_and_every_tie() -> None:
    values = every_boundary()
    assert values.size > 250_000
    # Bits, so that the sign of zero counts.
    np.testing.assert_array_equal(round_half(values).view(np.uint32), converted(values).view(np.uint32))


@pytest.mark.parametrize("value", [0.0, -0.0, 65519.99, 65520.0, -65520.0, 3e38, np.inf, -np.inf, 1e-45])
def test_extremes(value: float) -> None:
    x = np.array([[value]], np.float32)
    np.testing.assert_array_equal(round_half(x).view(np.uint32), converted(x).view(np.uint32))


def test_what_is_no_number_stays_so() -> None:
    x = np.array([0x7FFFFFFF, 0xFFC00000, 0x7F800001, 0x3F800000], np.uint32).view(np.float32)
    assert np.isnan(round_half(x)).tolist() == [True, True, True, False]


def test_shapes_and_strides_do_not_matter() -> None:
    x = np.random.default_rng(0).standard_normal((3, 5, 7000)).astype(np.float32)
    turned = x.transpose(2, 0, 1)
    np.testing.assert_array_equal(round_half(turned), converted(turned))
    assert round_half(np.float32(1.1).reshape(())).shape == ()
    assert not np.array_equal(round_half(x), x)
