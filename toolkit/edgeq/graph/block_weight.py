"""A block-quantized weight as com.microsoft MatMulNBits and GatherBlockQuantized store it.

Layout (onnxruntime 1.32 operator documentation): codes are unsigned, packed low bits first along the input
axis, `[N, blocks, block_size * bits / 8]`; scales `[N, blocks]`; zero points packed the same way,
`[N, ceil(blocks * bits / 8)]`, and left out when all are the middle code. Codes past K are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeq.numerics import (
    ByteArray,
    dequantize_blocks,
    join_blocks,
    pack_int4,
    packed_int4_shape,
    unpack_int4,
)
from edgeq.types import Array, FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class BlockWeight:
    """A weight `[K, N]`, packed.

    Attributes:
        data: codes, `[N, blocks, block_size * bits / 8]`.
        scales: `[N, blocks]`, float16 or float32.
        zero_points: packed, `[N, ceil(blocks * bits / 8)]`; None is the middle code everywhere.
        bits: 4 or 8.
        block_size: codes per scale.
        in_features: K.
        input_scales: `[K]`, what the layer's input must be divided by (AWQ); None is 1.
        offsets: `[N, blocks]` float32, added to every member of a block; None is 0.
        input_order: `[K]` int64, the input channel each code belongs to; None is their own order.
    """

    data: ByteArray
    scales: Array
    zero_points: ByteArray | None
    bits: int
    block_size: int
    in_features: int
    input_scales: FloatArray | None = None
    offsets: FloatArray | None = None
    input_order: Array | None = None

    @property
    def out_features(self) -> int:
        """N."""
        return int(self.data.shape[0])

    @property
    def size_bytes(self) -> int:
        """Bytes in the file."""
        zero_bytes = 0 if self.zero_points is None else self.zero_points.nbytes
        offset_bytes = 0 if self.offsets is None else self.offsets.nbytes
        return int(self.data.nbytes + self.scales.nbytes + zero_bytes + offset_bytes)

    def rows(self) -> ByteArray:
        """Codes without block padding, `[N, ceil(K * bits / 8)]`: what GatherBlockQuantized reads."""
        width = packed_int4_shape((self.in_features,))[0] if self.bits == 4 else self.in_features
        return np.ascontiguousarray(join_blocks(self.data, width))

    def dequantize(self) -> FloatArray:
        """The stored weight `[K, N]` (before `input_order` and `input_scales` are undone)."""
        q = unpack_int4(self.data, self.block_size) if self.bits == 4 else self.data
        zeros = self.zero_points
        if zeros is not None and self.bits == 4:
            zeros = unpack_int4(zeros, self.scales.shape[1])
        blocks = dequantize_blocks(q, self.scales.astype(np.float32), zeros, self.bits)
        if self.offsets is not None:
            blocks = blocks + self.offsets[..., None]
        return np.ascontiguousarray(join_blocks(blocks, self.in_features).T)


def pack_codes(q: ByteArray, bits: int) -> ByteArray:
    """Codes `[..., n]` as stored bytes `[..., n * bits / 8]` (rounded up)."""
    return pack_int4(q) if bits == 4 else np.ascontiguousarray(q, np.uint8)
