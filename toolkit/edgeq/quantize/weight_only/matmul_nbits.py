"""From a quantized weight to the bytes MatMulNBits stores, and to a graph that uses them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgeq.graph.block_weight import BlockWeight, pack_codes
from edgeq.numerics import block_count, join_blocks, split_blocks
from edgeq.quantize.formats import BLOCK_SIZES, PER_CHANNEL
from edgeq.quantize.weight_only.quantized_weight import QuantizedWeight

if TYPE_CHECKING:
    from edgeq.graph.passes.sequence import EditPass


def to_block_weight(weight: QuantizedWeight) -> BlockWeight:
    """Pack codes, scales and zero points.

    MatMulNBits has no per-channel mode: one scale per output channel becomes the same scale for each of its
    storage blocks, which computes the same.
    """
    q, scales, zeros, offsets = weight.q, weight.scales, weight.zero_points, weight.offsets
    block_size = weight.spec.block_size
    if block_size == PER_CHANNEL:
        block_size = storage_block_size(weight.in_features, weight.spec.bits)
        q = split_blocks(join_blocks(q, weight.in_features), block_size)
        scales = np.repeat(scales, q.shape[1], axis=1)
        zeros = None if zeros is None else np.repeat(zeros, q.shape[1], axis=1)
        offsets = None if offsets is None else np.repeat(offsets, q.shape[1], axis=1)
    return BlockWeight(
        data=pack_codes(q, weight.spec.bits),
        scales=scales.astype(weight.spec.scale_dtype),
        zero_points=None if zeros is None else pack_codes(zeros, weight.spec.bits),
        bits=weight.spec.bits,
        block_size=block_size,
        in_features=weight.in_features,
        input_scales=weight.input_scales,
        offsets=offsets,
        input_order=weight.input_order,
        factors=weight.factors,
    )


def storage_block_size(in_features: int, bits: int) -> int:
    """The block size that stores one row of codes and repeated float16 scales in the fewest bytes."""

    def row_bytes(block_size: int) -> int:
        return block_count(in_features, block_size) * (block_size * bits // 8 + 2)

    return min(reversed(BLOCK_SIZES), key=row_bytes)


def lower(weights: Mapping[str, QuantizedWeight]) -> EditPass:
    """`graph.passes.weight_only` with these weights, by initializer or node name."""
    from edgeq.graph.passes.weight_only import lower_weight_only

    return lower_weight_only({name: to_block_weight(weight) for name, weight in weights.items()})
