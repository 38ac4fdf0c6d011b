"""The best step and offset of each sub-block, by weighted squared error.

Starting points map a sub-block's range to slightly more or fewer codes than there are; each is rounded, fitted to its
codes by weighted least squares, and rounded again. llama.cpp searches the same way (`make_qx_quants`,
`make_qkx3_quants`); here the error that decides is always that of the parameters as they will be stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np

from edgeq.quantize.ggml.grid import encode, rounding_error, to_half
from edgeq.quantize.ggml.types import BlockType
from edgeq.types import FloatArray

Fit: TypeAlias = tuple[FloatArray, FloatArray | None]
"""Steps and offsets, `[rows, sub-blocks]`."""

_SIGNED_ENDS = tuple(np.linspace(-0.9, 1.7, 14))
"""Codes past the grid's end that the largest weight is mapped to."""
_RANGE_ENDS = tuple(np.linspace(-1.0, 2.4, 18))
_POLISH = 2
"""Rounds of fitting and rounding again after the best start."""


def search(x: FloatArray, weights: FloatArray, kind: BlockType) -> Fit:
    """Steps and offsets for `x [members, rows, sub-blocks]`; those of a K type are not rounded yet.

    Args:
        x: the weights.
        weights: what an error costs, in a shape that broadcasts to that of `x`.
        kind: the type.
    """
    starts = _range_starts(x, kind) if kind.has_minimum else _signed_starts(x, kind)
    best = _stored(next(starts), kind)
    error = rounding_error(x, weights, *best, kind)
    for start in starts:
        best, error = _better(best, error, fit_codes(x, weights, start, kind), x, weights, kind)
    for _ in range(_POLISH):
        best, error = _better(best, error, fit_codes(x, weights, best, kind), x, weights, kind)
    return best


def fit_codes(x: FloatArray, weights: FloatArray, start: Fit, kind: BlockType) -> Fit:
    """Steps and offsets by weighted least squares for the codes that `start` gives."""
    codes = encode(x, *start, kind)
    weighted = weights * codes
    xc, cc = (weighted * x).sum(0), (weighted * codes).sum(0)
    if not kind.has_minimum:
        return _stored((_divide(xc, cc), None), kind)
    w1 = np.broadcast_to(weights.sum(0), xc.shape)
    c1, x1 = weighted.sum(0), (weights * x).sum(0)
    steps = _divide(w1 * xc - c1 * x1, w1 * cc - c1 * c1)
    offsets = _divide(x1 - steps * c1, w1)
    if kind.is_super:
        # Minimums of K types are subtracted: without one, the line goes through 0.
        positive = offsets > 0
        steps, offsets = np.where(positive, _divide(xc, cc), steps), np.where(positive, 0, offsets)
    return _stored((steps, offsets), kind)


def _better(
    best: Fit, error: FloatArray, other: Fit, x: FloatArray, weights: FloatArray, kind: BlockType
) -> tuple[Fit, FloatArray]:
    """The better of two fits for each sub-block, and its error."""
    found = rounding_error(x, weights, *other, kind)
    wins = found < error
    steps = np.where(wins, other[0], best[0])
    offsets = None if best[1] is None or other[1] is None else np.where(wins, other[1], best[1])
    return (steps, offsets), np.where(wins, found, error)


def _stored(fit: Fit, kind: BlockType) -> Fit:
    """As the file will hold it: float16 for types without sub-blocks."""
    steps = np.asarray(fit[0], np.float32)
    offsets = None if fit[1] is None else np.asarray(fit[1], np.float32)
    if kind.is_super:
        return steps, offsets
    return to_half(steps), None if offsets is None else to_half(offsets)


def _signed_starts(x: FloatArray, kind: BlockType) -> Iterator[Fit]:
    """The largest weight to either end of the grid; first to the lowest code, as ggml's own quantizers do."""
    low, high = x.min(0), x.max(0)
    peak = np.where(-low > high, low, high)
    yield peak / np.float32(kind.low), None
    for end in _SIGNED_ENDS:
        yield peak / np.float32(kind.low - end), None
        yield peak / np.float32(kind.high + end), None


def _range_starts(x: FloatArray, kind: BlockType) -> Iterator[Fit]:
    """The range of the weights to slightly more or fewer codes; a K type's range contains 0."""
    low, high = x.min(0), x.max(0)
    low = np.minimum(low, 0) if kind.is_super else low
    yield (high - low) / np.float32(kind.high), low
    for end in _RANGE_ENDS:
        yield (high - low) / np.float32(kind.high + end), low


def _divide(a: FloatArray, b: FloatArray) -> FloatArray:
    """`a / b`, 0 where b is not above 0."""
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)
