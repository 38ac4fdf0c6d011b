"""What GPTQ and AWQ checkpoints share: small integers packed in 32-bit words, groups of inputs under one scale.

A group becomes one or several blocks of MatMulNBits with the same scale and zero point, which is the same weight: codes
and scales are taken over as they are, nothing is rounded.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np

from edgeq.errors import ModelError, UnsupportedError
from edgeq.numerics import ByteArray, block_count, split_blocks
from edgeq.quantize.formats import BLOCK_SIZES, PER_CHANNEL, Blocks, ScaleDtype
from edgeq.quantize.weight_only.quantized_weight import QuantizedWeight
from edgeq.types import Array, FloatArray

WORD_BITS = 32
PACKED_BITS = (4, 8)
"""What is taken over."""


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """The parts of one packed layer, unpacked.

    Attributes:
        codes: `[N, K]` uint8.
        scales: `[groups, N]`, in the type of the file.
        zero_points: `[groups, N]` uint8.
        bits: 4 or 8.
        group_size: inputs per scale; the last group may be shorter.
    """

    codes: ByteArray
    scales: Array
    zero_points: ByteArray
    bits: int
    group_size: int


def unpack_words(words: Array, bits: int) -> ByteArray:
    """Integers of `bits` bits from 32-bit words `[rows, words]`, lowest bits first: `[rows, words * 32 / bits]`."""
    assert words.dtype == np.int32 and sys.byteorder == "little"
    data = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return data
    return np.stack([data & 15, data >> 4], axis=-1).reshape(len(data), -1)


def from_groups(parts: Groups, method: str, input_order: Array | None = None) -> QuantizedWeight:
    """The layer as edgeq stores it.

    Args:
        parts: unpacked; codes already in `input_order`.
        method: what the plan names as its maker.
        input_order: `[K]`, the channel each code belongs to; None is their own order.

    Raises:
        ModelError: scales are not finite.
        UnsupportedError: groups that no block size divides.
    """
    scales = parts.scales.T.astype(np.float32)
    if not np.isfinite(scales).all():
        raise ModelError(f"{int((~np.isfinite(scales)).sum())} of {scales.size} scales are NaN or infinite")
    inputs = parts.codes.shape[1]
    block_size = _block_size(parts.group_size, len(parts.scales))
    spec = Blocks(parts.bits, block_size, _is_symmetric(parts), _scale_dtype(scales))
    return QuantizedWeight(
        q=split_blocks(parts.codes, block_size),
        scales=_by_block(scales, parts, block_size),
        zero_points=None if spec.symmetric else _by_block(parts.zero_points.T, parts, block_size),
        spec=spec,
        in_features=inputs,
        method=method,
        input_order=input_order,
    )


def _block_size(group_size: int, groups: int) -> int:
    if groups == 1:
        return PER_CHANNEL
    found = [size for size in BLOCK_SIZES if group_size % size == 0]
    if not found:
        raise UnsupportedError(f"groups of {group_size} inputs; expected a multiple of {BLOCK_SIZES[0]}")
    return found[-1]


def _is_symmetric(parts: Groups) -> bool:
    middle = 1 << (parts.bits - 1)
    return bool((parts.zero_points == middle).all())


def _scale_dtype(scales: FloatArray) -> ScaleDtype:
    """float16 where it holds these scales exactly (those of most files are), else float32."""
    with np.errstate(over="ignore"):
        return (
            "float16" if np.array_equal(scales.astype(np.float16).astype(np.float32), scales) else "float32"
        )


def _by_block(values: Array, parts: Groups, block_size: int) -> Array:
    """`[N, groups]` as `[N, blocks]`."""
    if block_size == PER_CHANNEL:
        return np.ascontiguousarray(values)
    blocks = block_count(parts.codes.shape[1], block_size)
    return np.ascontiguousarray(np.repeat(values, parts.group_size // block_size, axis=1)[:, :blocks])
