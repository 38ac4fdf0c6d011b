"""Half-quadratic quantization: no data, an error norm below 1 that forgives outliers.

Badri & Shaji, "Half-Quadratic Quantization of Large Machine Learning Models" (2023): the error is split in a
sparse part, found by the shrinkage operator of the l_p norm, and a dense part, minimized in closed form.
HQQ's own zero points are fractional, which MatMulNBits only takes on a slow path; here each step ends with a
whole zero point and a scale refitted for it, and the best step counts. Symmetric blocks refit the scale only.
"""

from __future__ import annotations

import numpy as np

from edgeq.quantize.formats import Blocks
from edgeq.quantize.weight_only import rtn
from edgeq.quantize.weight_only.blocks import quantize_with
from edgeq.quantize.weight_only.quantized_weight import LayerStats, QuantizedWeight, encode
from edgeq.quantize.weight_only.scale_search import refit
from edgeq.types import Array, FloatArray

# The paper's settings, but for beta: it is in units of 1 / error there, and relative to the block here.
_NORM = 0.7
_BETA = 10.0
_BETA_GROWTH = 1.01
_STEPS = 20


def quantize(weight: Array, spec: Blocks, stats: LayerStats | None = None) -> QuantizedWeight:
    """Minimize the l_0.7 norm of the weight error per block; `stats` is not used."""
    return quantize_with("hqq", weight, spec, fit)


def fit(x: FloatArray, spec: Blocks, importance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Scales, zero points `[rows, blocks]` for `x [block, rows, blocks]`; never worse than RTN in l_0.7."""
    scales, zeros = rtn.fit(x, spec, importance)
    ones = (importance > 0).astype(np.float32)
    best_scales, best_zeros = scales, zeros
    best = _error_norm(x, scales, zeros, spec)
    for step in range(_STEPS):
        residual = x - encode(x, scales, zeros, spec) * scales
        sparse = _shrink(residual, _BETA * _BETA_GROWTH**step, np.abs(scales))
        scales, zeros = refit(x - sparse, scales, zeros, spec, ones)
        error = _error_norm(x, scales, zeros, spec)
        better = error < best
        best_scales, best_zeros = np.where(better, scales, best_scales), np.where(better, zeros, best_zeros)
        best = np.minimum(best, error)
    return best_scales, best_zeros


def _shrink(residual: FloatArray, beta: float, unit: FloatArray) -> FloatArray:
    """Generalized soft threshold of the l_p norm, in units of one quantization step."""
    size = np.abs(residual) / unit
    with np.errstate(divide="ignore"):
        kept = np.maximum(size - size ** (_NORM - 1) / beta, 0)
    return np.asarray(np.sign(residual) * kept * unit, np.float32)


def _error_norm(x: FloatArray, scales: FloatArray, zeros: FloatArray, spec: Blocks) -> FloatArray:
    """Sum of |error|^p per block, `[rows, blocks]`."""
    error = np.abs(encode(x, scales, zeros, spec) * scales - x)
    return np.asarray((error**_NORM).sum(0))
