"""Rounding float32 values to those float16 has, without converting: processors convert subnormals very slowly."""

from __future__ import annotations

import numpy as np

from edgeq.types import Array

_PIECE = 1 << 14
"""Values at a time, so that intermediate results stay in the cache."""
_DROPPED = np.uint32(13)
"""Bits of a float32's fraction that float16 lacks."""
_ALMOST_HALF = np.uint32((1 << 12) - 1)
_KEPT = np.uint32(0xFFFFFFFF << 13 & 0xFFFFFFFF)
_NORMAL = np.float32(2.0**-14)
"""Below it float16's step stays 2^-24."""
_STEP = np.float32(0.75)
"""Float32 values from 0.5 to 1 are 2^-24 apart: adding this rounds to float16's smallest step."""
_OVERFLOW = np.float32(65520)
"""From here on float16 rounds to infinity."""


def round_half(x: Array) -> Array:
    """`x` with every value replaced by the nearest float16, ties to even: `x.astype(float16).astype(float32)`.

    Args:
        x: float32, any shape.
    """
    source = np.ascontiguousarray(x, np.float32).reshape(-1)
    result = np.empty_like(source)
    for start in range(0, len(source), _PIECE):
        piece = slice(start, start + _PIECE)
        _round(source[piece], result[piece])
    return result.reshape(x.shape)


def _round(x: Array, out: Array) -> None:
    bits = x.view(np.uint32)
    rounded = bits >> _DROPPED
    rounded &= np.uint32(1)
    rounded += _ALMOST_HALF
    rounded += bits
    rounded &= _KEPT
    out[:] = rounded.view(np.float32)
    size = np.abs(x)
    small = size < _NORMAL
    if small.any():
        np.copyto(out, np.copysign((size + _STEP) - _STEP, x), where=small)
    fits = size < _OVERFLOW
    if not fits.all():
        with np.errstate(over="ignore"):
            np.copyto(out, x.astype(np.float16), where=~fits)
