"""The loop around a per-block method: chunks of rows in, one QuantizedWeight out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from edgeq.numerics import block_count
from edgeq.quantize.formats import PER_CHANNEL, Blocks
from edgeq.quantize.weight_only.quantized_weight import (
    LayerStats,
    QuantizedWeight,
    block_importance,
    checked_importance,
    checked_weight,
    encode,
    row_chunks,
    stored_spec,
)
from edgeq.types import Array, FloatArray

Fit: TypeAlias = Callable[[FloatArray, Blocks, FloatArray], tuple[FloatArray, FloatArray]]
"""`(x [block, rows, blocks], spec, importance [block, 1, blocks]) -> scales, zero_points [rows, blocks]`."""


def fit_parameters(
    weight: FloatArray, spec: Blocks, fit: Fit, importance: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Scales and zero points `[N, blocks]` of the whole weight; zero points are whole numbers."""
    shape = (weight.shape[1], block_count(weight.shape[0], spec.block_size))
    scales, zeros = np.empty(shape, np.float32), np.empty(shape, np.float32)
    blocked = block_importance(importance, spec)
    for rows, x in row_chunks(weight, spec):
        scales[rows], zeros[rows] = fit(x, spec, blocked)
    return scales, zeros


def quantize_with(
    method: str, weight: Array, spec: Blocks, fit: Fit, stats: LayerStats | None = None
) -> QuantizedWeight:
    """Quantize `weight [K, N]` with the parameters `fit` chooses for each block.

    Raises:
        ModelError: the weight is not a finite matrix.
        DataError: the statistics are not finite or belong to another layer.
    """
    values = checked_weight(weight)
    spec = stored_spec(values, spec.fitted(values.shape[0]))
    importance = checked_importance(stats, values.shape[0])
    scales, zeros = fit_parameters(values, spec, fit, importance)
    return round_to(method, values, spec, scales, zeros)


def round_to(
    method: str, weight: FloatArray, spec: Blocks, scales: FloatArray, zeros: FloatArray
) -> QuantizedWeight:
    """Every member to its nearest code under given parameters `[N, blocks]`."""
    width = weight.shape[0] if spec.block_size == PER_CHANNEL else spec.block_size
    q = np.empty((*scales.shape, width), np.uint8)
    for rows, x in row_chunks(weight, spec):
        codes = encode(x, scales[rows], zeros[rows], spec) + zeros[rows]
        q[rows] = codes.transpose(1, 2, 0).astype(np.uint8)
    stored_zeros = None if spec.symmetric else zeros.astype(np.uint8)
    return QuantizedWeight(q, scales, stored_zeros, spec, weight.shape[0], method)
