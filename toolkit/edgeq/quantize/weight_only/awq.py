"""AWQ: scale the input channels that matter up before rounding, then clip.

Lin et al., "AWQ: Activation-aware Weight Quantization" (2024): s = magnitude(X)^a, with the exponent a in
[0, 1] of the least output error; the weight's rows times s, the input divided by s. The magnitude here is the
root mean square. Layers that read the same input (q, k, v) must share one s: `search_input_scales` takes
them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgeq.errors import DataError
from edgeq.quantize.formats import Blocks
from edgeq.quantize.weight_only import rtn
from edgeq.quantize.weight_only.blocks import quantize_with
from edgeq.quantize.weight_only.quantized_weight import (
    LayerStats,
    QuantizedWeight,
    checked_importance,
    checked_weight,
    round_scales,
)
from edgeq.quantize.weight_only.scale_search import weighted_error
from edgeq.types import Array, FloatArray

_EXPONENTS = tuple(np.linspace(0.0, 1.0, 21))
_SHRINKS = tuple(np.linspace(1.0, 0.5, 21))


def quantize(weight: Array, spec: Blocks, stats: LayerStats | None = None) -> QuantizedWeight:
    """Quantize `weight [K, N]`; `input_scales` of the result must be divided out of the input.

    Raises:
        ModelError: the weight is not a finite matrix.
        DataError: no statistics, or statistics that are not finite or belong to another layer.
    """
    return quantize_scaled(weight, spec, stats, search_input_scales([weight], spec, stats))


def search_input_scales(weights: Sequence[Array], spec: Blocks, stats: LayerStats | None) -> FloatArray:
    """The scales `[K]` with the least summed output error for layers `[K, N_i]` that share an input."""
    if stats is None:
        raise DataError("awq needs calibration statistics, and there are none")
    values = [checked_weight(weight) for weight in weights]
    magnitude = np.sqrt(checked_importance(stats, values[0].shape[0]))
    best, best_error = np.ones_like(magnitude), np.inf
    for exponent in _EXPONENTS:
        scales = magnitude ** np.float32(exponent)
        scales = np.asarray(scales / np.sqrt(scales.max() * scales.min()), np.float32)
        error = sum(_scaled_error(weight, spec, stats, scales) for weight in values)
        if error < best_error:
            best, best_error = scales, error
    return best


def quantize_scaled(
    weight: Array, spec: Blocks, stats: LayerStats | None, input_scales: FloatArray
) -> QuantizedWeight:
    """Clip and round `diag(input_scales) @ weight`."""
    scaled = checked_weight(weight) * input_scales[:, None]
    moved = (
        None if stats is None else replace(stats, mean_square=stats.mean_square / input_scales**2, gram=None)
    )
    result = quantize_with("awq", scaled, spec, search_clip, moved)
    return replace(result, input_scales=input_scales)


def search_clip(x: FloatArray, spec: Blocks, importance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The share of each block's range, 50 to 100 %, that rounds with the least weighted error."""
    full_scales, zeros = rtn.fit(x, spec, importance)
    scales = full_scales
    best = weighted_error(x, scales, zeros, spec, importance)
    for shrink in _SHRINKS[1:]:
        tried = round_scales(full_scales * np.float32(shrink), spec)
        error = weighted_error(x, tried, zeros, spec, importance)
        scales = np.where(error < best, tried, scales)
        best = np.minimum(best, error)
    return scales, zeros


def _scaled_error(weight: FloatArray, spec: Blocks, stats: LayerStats, scales: FloatArray) -> float:
    """Output error of RTN on the scaled weight: with X^T X exactly, else as if channels were uncorrelated."""
    rounded = rtn.quantize(weight * scales[:, None], spec)
    error = rounded.dequantize() / scales[:, None] - weight
    if stats.gram is not None:
        return float(np.einsum("kn,kn->", error, np.asarray(stats.gram, np.float32) @ error))
    return float(np.sum(error**2 * stats.mean_square[:, None], dtype=np.float64))
