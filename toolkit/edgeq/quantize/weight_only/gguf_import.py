"""GGUF blocks taken over without requantizing, where ONNX Runtime's block formats can hold them exactly.

Formats as ggml defines them (ggml-common.h, ggml-quants.c of llama.cpp). Every value of these types is a float
scale times a small integer, which MatMulNBits stores as a symmetric block: 4 bits for Q4_0, 8 bits for the others.
Types with a minimum per block (Q4_1, Q5_1, Q4_K, Q5_K) need a float zero point, which ONNX Runtime computes on a slow
path: they are refused by name, as are the types below 4 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgeq.errors import DataError, UnsupportedError
from edgeq.numerics import ByteArray
from edgeq.quantize.weight_only.base import QuantizedWeight, ScaleDtype, WeightSpec
from edgeq.types import Array, FloatArray

SUPER_BLOCK = 256
IQ4_NL_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int16)
"""The codebook `kvalues_iq4nl` of ggml."""


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """How one GGUF type becomes symmetric blocks.

    Attributes:
        bytes_per_block: of `values` weights.
        values: weights of a GGUF block.
        bits: of the codes here.
        block_size: codes per scale here.
        scale_dtype: in which the scales are exact.
        unpack: blocks `[rows, blocks, bytes]` to signed integers `[rows, values]` and scales `[rows, scales]`.
    """

    bytes_per_block: int
    values: int
    bits: int
    block_size: int
    scale_dtype: ScaleDtype
    unpack: Callable[[ByteArray], tuple[Array, FloatArray]]


def import_blocks(kind: str, rows: Array, in_features: int) -> QuantizedWeight:
    """A GGUF tensor as a quantized weight whose values are bit-equal.

    Args:
        kind: GGUF type, as in `Q4_0`.
        rows: the tensor's bytes, `[out_features, bytes per row]` uint8.
        in_features: weights of a row.

    Raises:
        UnsupportedError: the type cannot be held exactly.
        DataError: the bytes are not rows of that type.
    """
    layout = FORMATS.get(kind)
    if layout is None:
        reason = UNREPRESENTABLE.get(kind, "edgeq does not know it")
        raise UnsupportedError(
            f"GGUF type {kind} cannot be taken over exactly: {reason}",
            hint=f"types that can: {', '.join(FORMATS)}",
        )
    data = np.asarray(rows)
    blocks = in_features // layout.values
    if data.dtype != np.uint8 or data.ndim != 2 or in_features % layout.values:
        raise DataError(
            f"{kind} rows must be bytes of whole blocks of {layout.values}, got {data.dtype} {data.shape}"
        )
    if data.shape[1] != blocks * layout.bytes_per_block:
        raise DataError(
            f"a {kind} row of {in_features} weights has {blocks * layout.bytes_per_block} bytes, got {data.shape[1]}"
        )
    integers, scales = layout.unpack(data.reshape(len(data), blocks, layout.bytes_per_block))
    if not np.isfinite(scales).all():
        raise DataError(f"a {kind} tensor holds NaN or infinite scales")
    spec = WeightSpec(layout.bits, layout.block_size, True, layout.scale_dtype)
    codes = (integers + spec.middle).astype(np.uint8).reshape(len(data), -1, layout.block_size)
    return QuantizedWeight(codes, scales, None, spec, in_features, f"gguf {kind}")


def _nibbles(packed: ByteArray) -> Array:
    """16 bytes of two values each: low nibbles are the first half of a block."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1).astype(np.int16)


def _half(blocks: ByteArray, at: int) -> FloatArray:
    """The float16 at a byte of every block, `[rows, blocks]` float32."""
    return np.ascontiguousarray(blocks[..., at : at + 2]).view("<f2")[..., 0].astype(np.float32)


def _flat(values: Array) -> Array:
    return values.reshape(len(values), -1)


def _q4_0(blocks: ByteArray) -> tuple[Array, FloatArray]:
    return _flat(_nibbles(blocks[..., 2:]) - 8), _half(blocks, 0)


def _q5_0(blocks: ByteArray) -> tuple[Array, FloatArray]:
    high = np.unpackbits(np.ascontiguousarray(blocks[..., 2:6]), axis=-1, bitorder="little").astype(np.int16)
    return _flat((_nibbles(blocks[..., 6:]) | (high << 4)) - 16), _half(blocks, 0)


def _q8_0(blocks: ByteArray) -> tuple[Array, FloatArray]:
    return _flat(np.ascontiguousarray(blocks[..., 2:]).view(np.int8).astype(np.int16)), _half(blocks, 0)


def _iq4_nl(blocks: ByteArray) -> tuple[Array, FloatArray]:
    return _flat(IQ4_NL_VALUES[_nibbles(blocks[..., 2:])]), _half(blocks, 0)


def _q6_k(blocks: ByteArray) -> tuple[Array, FloatArray]:
    """128 bytes of low nibbles, 64 of high bit pairs, 16 int8 scales, one float16 scale of scales.

    A half of the block is 64 bytes of nibbles: values 0-31 and 32-63 are their low, 64-95 and 96-127 their high parts;
    the bit pairs of byte `i` belong to values `i`, `i + 32`, `i + 64`, `i + 96`.
    """
    low = blocks[..., :128].reshape(*blocks.shape[:2], 2, 64)
    high = blocks[..., 128:192].reshape(*blocks.shape[:2], 2, 32)
    nibbles = np.concatenate([low & 15, low >> 4], axis=-1).astype(np.int16)
    pairs = np.concatenate([(high >> shift) & 3 for shift in (0, 2, 4, 6)], axis=-1).astype(np.int16)
    factors = np.ascontiguousarray(blocks[..., 192:208]).view(np.int8).astype(np.float32)
    scales = _half(blocks, 208)[..., None] * factors
    return _flat((nibbles | (pairs << 4)) - 32), _flat(scales)


FORMATS: Mapping[str, BlockFormat] = {
    "Q4_0": BlockFormat(18, 32, 4, 32, "float16", _q4_0),
    "Q5_0": BlockFormat(22, 32, 8, 32, "float16", _q5_0),
    "Q8_0": BlockFormat(34, 32, 8, 32, "float16", _q8_0),
    "IQ4_NL": BlockFormat(18, 32, 8, 32, "float16", _iq4_nl),
    "Q6_K": BlockFormat(210, SUPER_BLOCK, 8, 16, "float32", _q6_k),
}
"""By GGUF type: what is held bit for bit."""

_MINIMUM = (
    "its blocks have a minimum of their own, a float zero point that ONNX Runtime computes on a slow path"
)
_CODEBOOK = "its values come from a codebook over several weights"
UNREPRESENTABLE: Mapping[str, str] = {
    **dict.fromkeys(("Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K"), _MINIMUM),
    **dict.fromkeys(("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M"), _CODEBOOK),
}
"""Why other types are not taken over."""
