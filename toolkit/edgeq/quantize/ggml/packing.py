"""Codes and parameters to the bytes of GGUF blocks (layouts of `ggml-common.h` in llama.cpp)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edgeq.numerics import ByteArray
from edgeq.quantize.ggml.grid import Parameters
from edgeq.quantize.ggml.types import BlockType
from edgeq.types import Array, FloatArray


def pack_rows(codes: FloatArray, parameters: Parameters, kind: BlockType) -> ByteArray:
    """Rows of blocks.

    Args:
        codes: whole numbers `[rows, K]`.
        parameters: of the same rows.
        kind: the type.

    Returns:
        `[rows, bytes of a row]`.
    """
    blocks = (codes.astype(np.int16) - min(kind.low, 0)).astype(np.uint8).reshape(-1, kind.block)
    if kind.name == "Q8_0":
        blocks = codes.astype(np.int8).view(np.uint8).reshape(-1, kind.block)
    packed = _PACKERS[kind.name](blocks, parameters)
    assert packed.dtype == np.uint8 and packed.shape == (len(blocks), kind.block_bytes)
    return packed.reshape(len(codes), -1)


def _halves(values: FloatArray | None) -> ByteArray:
    """A float16 of each block, `[blocks, 2]` bytes."""
    assert values is not None
    return np.ascontiguousarray(values.reshape(-1, 1).astype("<f2")).view(np.uint8)


def _nibbles(codes: ByteArray) -> ByteArray:
    """Two halves of the last axis in one byte: the first half in the low four bits."""
    middle = codes.shape[-1] // 2
    return np.asarray((codes[..., :middle] & 15) | (codes[..., middle:] << 4), np.uint8)


def _fifth_bits(codes: ByteArray) -> ByteArray:
    """Bit 4 of 32 codes as four bytes."""
    return np.packbits(codes >> 4 & 1, axis=-1, bitorder="little")


def _q4_0(codes: ByteArray, found: Parameters) -> ByteArray:
    return np.concatenate([_halves(found.scale), _nibbles(codes)], axis=1)


def _q4_1(codes: ByteArray, found: Parameters) -> ByteArray:
    return np.concatenate([_halves(found.scale), _halves(found.minimum), _nibbles(codes)], axis=1)


def _q5_0(codes: ByteArray, found: Parameters) -> ByteArray:
    return np.concatenate([_halves(found.scale), _fifth_bits(codes), _nibbles(codes)], axis=1)


def _q5_1(codes: ByteArray, found: Parameters) -> ByteArray:
    head = [_halves(found.scale), _halves(found.minimum)]
    return np.concatenate([*head, _fifth_bits(codes), _nibbles(codes)], axis=1)


def _q8_0(codes: ByteArray, found: Parameters) -> ByteArray:
    return np.concatenate([_halves(found.scale), codes], axis=1)


def _k_scales(found: Parameters) -> ByteArray:
    """8 scales and 8 minimums of 6 bits in 12 bytes: the upper two bits of the last four lie above the first four."""
    assert found.scales is not None and found.minimums is not None
    scales = found.scales.reshape(-1, 8).astype(np.uint8)
    minimums = found.minimums.reshape(-1, 8).astype(np.uint8)
    first = scales[:, :4] | scales[:, 4:] >> 4 << 6
    second = minimums[:, :4] | minimums[:, 4:] >> 4 << 6
    rest = scales[:, 4:] & 15 | (minimums[:, 4:] & 15) << 4
    return np.concatenate([first, second, rest], axis=1)


def _k_head(found: Parameters) -> list[Array]:
    return [_halves(found.scale), _halves(found.minimum), _k_scales(found)]


def _k_nibbles(codes: ByteArray) -> ByteArray:
    return _nibbles(codes.reshape(-1, 4, 64)).reshape(len(codes), 128)


def _q4_k(codes: ByteArray, found: Parameters) -> ByteArray:
    return np.concatenate([*_k_head(found), _k_nibbles(codes)], axis=1)


def _q5_k(codes: ByteArray, found: Parameters) -> ByteArray:
    """Bit `i` of byte `l` between scales and nibbles is the fifth bit of member `l` of sub-block `i`."""
    fifth = (codes >> 4 & 1).reshape(-1, 8, 32)
    high = np.packbits(fifth, axis=1, bitorder="little")[:, 0]
    return np.concatenate([*_k_head(found), high, _k_nibbles(codes)], axis=1)


def _q6_k(codes: ByteArray, found: Parameters) -> ByteArray:
    """Half a block is 64 bytes of nibbles (values 0-63 low, 64-127 high) and 32 bytes of four bit pairs."""
    assert found.scales is not None
    halves = codes.reshape(-1, 2, 4, 32)
    low = _nibbles(halves.reshape(-1, 2, 128)).reshape(-1, 128)
    pairs = halves >> 4
    high = pairs[:, :, 0] | pairs[:, :, 1] << 2 | pairs[:, :, 2] << 4 | pairs[:, :, 3] << 6
    scales = found.scales.reshape(-1, 16).astype(np.int8).view(np.uint8)
    return np.concatenate([low, high.reshape(-1, 64), scales, _halves(found.scale)], axis=1)


_PACKERS: Mapping[str, Callable[[ByteArray, Parameters], ByteArray]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
