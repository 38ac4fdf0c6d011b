"""Search scales and zero points for the least error weighted by E[x^2] (llama.cpp's importance matrix).

For each block a grid of starting scales is quantized, refitted by weighted least squares, rounded to what
the file can hold (float16 scale, whole zero point) and quantized again; the error that counts is that of
the rounded parameters. k-quants search the same way (`make_qx_quants`, `make_qkx3_quants` in llama.cpp),
but round the zero point and the scale only afterwards.
"""

from __future__ import annotations

import numpy as np

from edgeq.quantize.formats import Blocks
from edgeq.quantize.weight_only import rtn
from edgeq.quantize.weight_only.blocks import quantize_with
from edgeq.quantize.weight_only.quantized_weight import LayerStats, QuantizedWeight, encode, round_scales
from edgeq.types import Array, FloatArray

# How many codes past the grid's end a block's peak lands: it is clipped there, or range is wasted.
_SYMMETRIC_ENDS = tuple(np.linspace(-0.7, 1.7, 13))
_ASYMMETRIC_ENDS = tuple(np.linspace(-1.2, 2.8, 17))


def quantize(weight: Array, spec: Blocks, stats: LayerStats | None = None) -> QuantizedWeight:
    """Search per block; without `stats` every input channel weighs the same (an MSE search)."""
    return quantize_with("scale_search", weight, spec, fit, stats)


def fit(x: FloatArray, spec: Blocks, importance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The best scales, zero points `[rows, blocks]` for `x [block, rows, blocks]`; never worse than RTN."""
    scales, zeros = rtn.fit(x, spec, importance)
    best = weighted_error(x, scales, zeros, spec, importance)
    for start_scales, start_zeros in _starts(x, spec):
        new_scales, new_zeros = refit(x, start_scales, start_zeros, spec, importance)
        error = weighted_error(x, new_scales, new_zeros, spec, importance)
        better = error < best
        scales, zeros = np.where(better, new_scales, scales), np.where(better, new_zeros, zeros)
        best = np.minimum(best, error)
    return scales, zeros


def weighted_error(
    x: FloatArray, scales: FloatArray, zeros: FloatArray, spec: Blocks, importance: FloatArray
) -> FloatArray:
    """Sum over each block of importance * (x - dequantized)^2: `[rows, blocks]`."""
    error = encode(x, scales, zeros, spec)
    error *= scales
    error -= x
    error *= error
    error *= importance
    return np.asarray(error.sum(0))


def refit(
    x: FloatArray, scales: FloatArray, zeros: FloatArray, spec: Blocks, importance: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Weighted least squares for the codes these parameters give, rounded to what can be stored."""
    codes = encode(x, scales, zeros, spec)
    weighted = importance * codes
    xc, cc = (weighted * x).sum(0), (weighted * codes).sum(0)
    if spec.symmetric:
        return round_scales(_divide(xc, cc), spec), zeros
    w1, c1, x1 = importance.sum(0), weighted.sum(0), (importance * x).sum(0)
    slope = _divide(w1 * xc - c1 * x1, w1 * cc - c1 * c1)
    usable = slope > 0
    offset = _divide(x1 - slope * c1, w1 * slope)
    new_zeros = np.where(usable, np.clip(np.rint(zeros - offset), 0, spec.top), zeros)
    # The line through the codes had a fractional zero point: refit the scale for the whole one.
    shift = zeros - new_zeros
    slope = _divide(xc + shift * x1, cc + 2 * shift * c1 + shift * shift * w1)
    return round_scales(np.where(slope > 0, slope, scales), spec), new_zeros


def _starts(x: FloatArray, spec: Blocks) -> list[tuple[FloatArray, FloatArray]]:
    """Starting points: the peak to either end of the grid, or the range to slightly more or fewer codes."""
    if spec.symmetric:
        peak = rtn.signed_peak(x)
        middle = np.full_like(peak, spec.middle)
        ends = [-spec.middle - end for end in _SYMMETRIC_ENDS] + [
            spec.middle - 1 + e for e in _SYMMETRIC_ENDS
        ]
        return [(_nonzero(peak / np.float32(end)), middle) for end in ends]
    lo, hi = np.minimum(x.min(0), 0), np.maximum(x.max(0), 0)
    scales = [_nonzero(hi / (spec.top + end) - lo / (spec.top + end)) for end in _ASYMMETRIC_ENDS]
    return [(s, np.clip(np.rint(-lo / s), 0, spec.top)) for s in scales]


def _nonzero(scales: FloatArray) -> FloatArray:
    return np.where(scales == 0, 1, scales).astype(np.float32)


def _divide(a: FloatArray, b: FloatArray) -> FloatArray:
    """`a / b`, 0 where b is 0."""
    return np.divide(a, b, out=np.zeros_like(a), where=b != 0)
