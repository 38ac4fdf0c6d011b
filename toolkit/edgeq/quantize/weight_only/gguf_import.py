"""GGUF blocks taken over without requantizing, where ONNX Runtime's block formats can hold them.

Formats as ggml defines them (ggml-common.h, ggml-quants.c of llama.cpp). A value is a float scale times a small
integer, for some types plus a float of its block. The first kind is stored as it is, as symmetric blocks of 4 or 8
bits. The second (Q4_1, Q5_1, Q2_K, Q4_K, Q5_K: a minimum per block) is `scale * (code - middle) + offset`, with the
offset beside the codes: the same numbers up to the rounding of a float32 sum, without the float zero points that ONNX
Runtime computes on a slow path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgeq.errors import DataError, UnsupportedError
from edgeq.graph.block_factors import BlockFactors, Product
from edgeq.numerics import ByteArray
from edgeq.quantize.formats import Blocks, ScaleDtype
from edgeq.quantize.weight_only.quantized_weight import QuantizedWeight
from edgeq.types import Array, FloatArray

SUPER_BLOCK = 256
IQ4_NL_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int16)
"""The codebook `kvalues_iq4nl` of ggml."""
E2M1_DOUBLED = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int16)
"""The numbers of MXFP4 (OCP Microscaling 1.0: E2M1), times two."""


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """`scale * integer`, or `scale * integer + minimum`, the integers then being unsigned.

    Attributes:
        integers: `[rows, values]` int16.
        scales: `[rows, scales]` float32, or the products they are.
        minimums: the same, or None.
    """

    integers: Array
    scales: FloatArray | Product
    minimums: FloatArray | Product | None = None


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """How one GGUF type becomes blocks of codes.

    Attributes:
        bytes_per_block: of `values` weights.
        values: weights of a GGUF block.
        bits: of the codes here.
        block_size: codes per scale here.
        scale_dtype: in which the scales are exact.
        unpack: blocks `[rows, blocks, bytes]` to the parts of their values.
    """

    bytes_per_block: int
    values: int
    bits: int
    block_size: int
    scale_dtype: ScaleDtype
    unpack: Callable[[ByteArray], Parts]


def import_blocks(kind: str, rows: Array, in_features: int) -> QuantizedWeight:
    """A GGUF tensor as a quantized weight: bit-equal, or to the rounding of one float32 sum for types with a minimum.

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
    parts = layout.unpack(data.reshape(len(data), blocks, layout.bytes_per_block))
    scales, minimums = _values(parts.scales), None if parts.minimums is None else _values(parts.minimums)
    finite = np.isfinite(scales).all() and (minimums is None or np.isfinite(minimums).all())
    if not finite:
        raise DataError(f"a {kind} tensor holds NaN or infinite scales")
    spec = Blocks(layout.bits, layout.block_size, True, layout.scale_dtype)
    integers, offsets = parts.integers, None
    if minimums is not None:
        center = HALF_RANGE[kind]
        integers = integers - np.int16(center)
        # The product with a power of two is exact: one rounding, of the sum.
        offsets = np.asarray(np.float32(center) * scales + minimums, np.float32)
    codes = (integers + spec.middle).astype(np.uint8).reshape(len(data), -1, layout.block_size)
    return QuantizedWeight(
        codes,
        scales,
        None,
        spec,
        in_features,
        f"gguf {kind}",
        offsets=offsets,
        factors=_factors(parts, HALF_RANGE.get(kind, 0)),
    )


def _values(part: FloatArray | Product) -> FloatArray:
    return part.values() if isinstance(part, Product) else part


def _factors(parts: Parts, center: int) -> BlockFactors | None:
    if not isinstance(parts.scales, Product):
        return None
    minimum = parts.minimums if isinstance(parts.minimums, Product) else None
    return BlockFactors(parts.scales, minimum, center)


def _nibbles(packed: ByteArray) -> Array:
    """16 bytes of two values each: low nibbles are the first half of a block."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1).astype(np.int16)


def _half(blocks: ByteArray, at: int) -> FloatArray:
    """The float16 at a byte of every block, `[rows, blocks]` float32."""
    return np.ascontiguousarray(blocks[..., at : at + 2]).view("<f2")[..., 0].astype(np.float32)


def _flat(values: Array) -> Array:
    return values.reshape(len(values), -1)


def _q4_0(blocks: ByteArray) -> Parts:
    return Parts(_flat(_nibbles(blocks[..., 2:]) - 8), _half(blocks, 0))


def _q4_1(blocks: ByteArray) -> Parts:
    return Parts(_flat(_nibbles(blocks[..., 4:])), _half(blocks, 0), _half(blocks, 2))


def _fifth_bits(packed: ByteArray) -> Array:
    """Four bytes, a bit for each of a block's 32 values, moved to the place of the fifth bit."""
    bits = np.unpackbits(np.ascontiguousarray(packed), axis=-1, bitorder="little")
    return bits.astype(np.int16) << 4


def _q5_0(blocks: ByteArray) -> Parts:
    codes = _nibbles(blocks[..., 6:]) | _fifth_bits(blocks[..., 2:6])
    return Parts(_flat(codes - 16), _half(blocks, 0))


def _q5_1(blocks: ByteArray) -> Parts:
    codes = _nibbles(blocks[..., 8:]) | _fifth_bits(blocks[..., 4:8])
    return Parts(_flat(codes), _half(blocks, 0), _half(blocks, 2))


def _q8_0(blocks: ByteArray) -> Parts:
    return Parts(
        _flat(np.ascontiguousarray(blocks[..., 2:]).view(np.int8).astype(np.int16)), _half(blocks, 0)
    )


def _iq4_nl(blocks: ByteArray) -> Parts:
    return Parts(_flat(IQ4_NL_VALUES[_nibbles(blocks[..., 2:])]), _half(blocks, 0))


def _iq4_xs(blocks: ByteArray) -> Parts:
    """One float16, 8 scales of 6 bits (high pairs in 2 bytes, low nibbles in 4), 16 bytes of nibbles by 32 values."""
    high = np.ascontiguousarray(blocks[..., 2:4]).view("<u2").astype(np.int16)
    low = blocks[..., 4:8, None] >> np.array([0, 4], np.uint8) & 15
    pairs = high >> (2 * np.arange(8, dtype=np.int16)) & 3
    factors = (low.reshape(*low.shape[:2], 8) | pairs << 4) - 32
    nibbles = blocks[..., 8:].reshape(*blocks.shape[:2], 8, 16)
    return Parts(_flat(IQ4_NL_VALUES[_nibbles(nibbles)]), _scaled(_half(blocks, 0), factors))


def _mxfp4(blocks: ByteArray) -> Parts:
    """One power of two (E8M0) and 32 numbers of E2M1, held doubled so that they are whole."""
    exponents = blocks[..., 0].astype(np.int32)
    scales = np.ldexp(np.float32(1), exponents - 128).astype(np.float32)
    return Parts(_flat(E2M1_DOUBLED[_nibbles(blocks[..., 1:])]), scales)


def _scaled(scale: FloatArray, factors: Array) -> Product:
    """Scales of sub-blocks: each block's float16 times small integers `[rows, blocks, n]`."""
    return Product(scale.astype(np.float16), _flat(factors.astype(np.int8)))


def _k_scales(packed: ByteArray) -> tuple[Array, Array]:
    """Scales and minimums of 8 sub-blocks, 6 bits each, from 12 bytes.

    The first four lie in the low 6 bits of bytes 0-3 and 4-7; of the last four, the low nibbles lie in bytes 8-11 and
    the two high bits above those of the first.
    """
    first, second, rest = packed[..., :4], packed[..., 4:8], packed[..., 8:12]
    scales = np.concatenate([first & 63, rest & 15 | first >> 6 << 4], axis=-1)
    minimums = np.concatenate([second & 63, rest >> 4 | second >> 6 << 4], axis=-1)
    return scales, minimums


def _q4_k(blocks: ByteArray) -> Parts:
    """Two float16, 12 bytes of scales and minimums, 32 bytes of nibbles for each 64 values."""
    scales, minimums = _k_scales(blocks[..., 4:16])
    nibbles = _nibbles(blocks[..., 16:].reshape(*blocks.shape[:2], 4, 32))
    return Parts(_flat(nibbles), _scaled(_half(blocks, 0), scales), _scaled(-_half(blocks, 2), minimums))


def _q5_k(blocks: ByteArray) -> Parts:
    """As Q4_K; the fifth bit of sub-block `i` is bit `i` of 32 bytes between scales and nibbles."""
    scales, minimums = _k_scales(blocks[..., 4:16])
    high = blocks[..., 16:48, None] >> np.arange(8, dtype=np.uint8) & 1
    nibbles = _nibbles(blocks[..., 48:].reshape(*blocks.shape[:2], 4, 32)).reshape(*blocks.shape[:2], 8, 32)
    codes = nibbles | high.swapaxes(-1, -2).astype(np.int16) << 4
    return Parts(_flat(codes), _scaled(_half(blocks, 0), scales), _scaled(-_half(blocks, 2), minimums))


def _pairs(packed: ByteArray) -> Array:
    """64 bytes of four 2-bit values: those of 32 bytes in turn are 32 low ones, the 32 next, and so on."""
    halves = packed.reshape(*packed.shape[:2], 2, 1, 32)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    return (halves >> shifts & 3).reshape(*packed.shape[:2], SUPER_BLOCK).astype(np.int16)


def _q2_k(blocks: ByteArray) -> Parts:
    """16 bytes of 4-bit scales and minimums, 64 of pairs, two float16."""
    packed = blocks[..., :16]
    return Parts(
        _flat(_pairs(blocks[..., 16:80])),
        _scaled(_half(blocks, 80), packed & 15),
        _scaled(-_half(blocks, 82), packed >> 4),
    )


def _q3_k(blocks: ByteArray) -> Parts:
    """32 bytes of third bits (set: nothing is subtracted), 64 of pairs, 12 of 6-bit scales, one float16."""
    third = blocks[..., :32, None] >> np.arange(8, dtype=np.uint8) & 1
    third = third.swapaxes(-1, -2).reshape(*blocks.shape[:2], SUPER_BLOCK).astype(np.int16)
    low = blocks[..., 96:104, None] >> np.array([0, 4], np.uint8) & 15
    high = blocks[..., 104:108, None] >> np.array([0, 2, 4, 6], np.uint8) & 3
    factors = (
        low.swapaxes(-1, -2).reshape(*low.shape[:2], 16)
        | high.swapaxes(-1, -2).reshape(*high.shape[:2], 16) << 4
    )
    codes = _pairs(blocks[..., 32:96]) + 4 * third - 4
    return Parts(_flat(codes), _scaled(_half(blocks, 108), factors.astype(np.int16) - 32))


def _q6_k(blocks: ByteArray) -> Parts:
    """128 bytes of low nibbles, 64 of high bit pairs, 16 int8 scales, one float16 scale of scales.

    A half of the block is 64 bytes of nibbles: values 0-31 and 32-63 are their low, 64-95 and 96-127 their high parts;
    the bit pairs of byte `i` belong to values `i`, `i + 32`, `i + 64`, `i + 96`.
    """
    low = blocks[..., :128].reshape(*blocks.shape[:2], 2, 64)
    nibbles = np.concatenate([low & 15, low >> 4], axis=-1).astype(np.int16)
    pairs = _pairs(blocks[..., 128:192]).reshape(*blocks.shape[:2], 2, 128)
    factors = np.ascontiguousarray(blocks[..., 192:208]).view(np.int8)
    return Parts(_flat((nibbles | pairs << 4) - 32), _scaled(_half(blocks, 208), factors))


FORMATS: Mapping[str, BlockFormat] = {
    "Q4_0": BlockFormat(18, 32, 4, 32, "float16", _q4_0),
    "Q4_1": BlockFormat(20, 32, 4, 32, "float16", _q4_1),
    "Q5_0": BlockFormat(22, 32, 8, 32, "float16", _q5_0),
    "Q5_1": BlockFormat(24, 32, 8, 32, "float16", _q5_1),
    "Q8_0": BlockFormat(34, 32, 8, 32, "float16", _q8_0),
    "IQ4_NL": BlockFormat(18, 32, 8, 32, "float16", _iq4_nl),
    "MXFP4": BlockFormat(17, 32, 8, 32, "float32", _mxfp4),
    "Q2_K": BlockFormat(84, SUPER_BLOCK, 4, 16, "float32", _q2_k),
    "Q3_K": BlockFormat(110, SUPER_BLOCK, 4, 16, "float32", _q3_k),
    "Q4_K": BlockFormat(144, SUPER_BLOCK, 4, 32, "float32", _q4_k),
    "Q5_K": BlockFormat(176, SUPER_BLOCK, 8, 32, "float32", _q5_k),
    "Q6_K": BlockFormat(210, SUPER_BLOCK, 8, 16, "float32", _q6_k),
    "IQ4_XS": BlockFormat(136, SUPER_BLOCK, 8, 32, "float32", _iq4_xs),
}
"""By GGUF type: what is held."""

HALF_RANGE: Mapping[str, int] = {"Q4_1": 8, "Q5_1": 16, "Q2_K": 2, "Q4_K": 8, "Q5_K": 16}
"""Types with a minimum: what is subtracted from their unsigned codes, so that the codes are centred."""

_CODEBOOK = "its values come from a codebook over several weights"
UNREPRESENTABLE: Mapping[str, str] = {
    **dict.fromkeys(("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M"), _CODEBOOK),
    **dict.fromkeys(("TQ1_0", "TQ2_0"), "edgeq has no ternary weights"),
    "NVFP4": "its scales are 8-bit floats of blocks of 16, which edgeq does not read",
}
"""Why other types are not taken over."""
