"""Scales, zero points, quantize and dequantize, int4 packing: numpy only, vectorized, no policy.

Affine functions follow ONNX QuantizeLinear and DequantizeLinear (opset 21): round half to even, then
saturate. Block functions follow com.microsoft.MatMulNBits: unsigned codes, blocks along the input axis,
`weight = (code - zero_point) * scale`, a default zero point of `2 ** (bits - 1)`.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from edgeq.errors import DataError
from edgeq.types import Array, FloatArray

IntDtype: TypeAlias = Literal["uint8", "int8", "uint16", "int16"]
ByteArray: TypeAlias = npt.NDArray[np.uint8]

FP16_MAX = 65504.0
FP16_MIN = 2.0**-24
"""Largest and smallest (subnormal) positive float16."""
FP16_STEP = 2.0**-10
"""Between neighbours in float16, relative to the smaller one at most."""

_TINY = float(np.finfo(np.float32).tiny)


def integer_range(dtype: IntDtype) -> tuple[int, int]:
    """Smallest and largest value of an integer type."""
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def affine_params(
    lo: npt.ArrayLike, hi: npt.ArrayLike, dtype: IntDtype, symmetric: bool
) -> tuple[FloatArray, Array]:
    """Scale and zero point that cover `[lo, hi]`, widened to contain zero.

    Symmetric: the zero point is the middle of the type (0, or 128 for uint8) and the larger of |lo|, |hi|
    maps to 127 (32767). An empty range (only zeros) gets scale 1.

    Args:
        lo: lowest values, a number or `[channels]`.
        hi: highest values, the same shape.
        dtype: the integer type.
        symmetric: whether zero sits in the middle of the type.

    Returns:
        `(scale float32, zero_point dtype)` with the broadcast shape of `lo` and `hi`.

    Raises:
        DataError: a bound is NaN or infinite, or `lo > hi`.
    """
    low, high = np.broadcast_arrays(np.asarray(lo, np.float64), np.asarray(hi, np.float64))
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise DataError("a quantization range is NaN or infinite; finite bounds were expected")
    if (low > high).any():
        raise DataError("a quantization range has its lower bound above its upper bound")
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    qmin, qmax = integer_range(dtype)
    middle = (qmin + qmax + 1) // 2
    width = np.maximum(-low, high) if symmetric else high - low
    steps = qmax - middle if symmetric else qmax - qmin
    scale = np.where(width > 0, np.maximum(width / steps, _TINY), 1.0).astype(np.float32)
    exact = np.full_like(low, middle) if symmetric else np.rint(qmin - low / scale)
    zero_point = np.asarray(np.clip(exact, qmin, qmax).astype(dtype))
    assert scale.shape == zero_point.shape == low.shape
    return scale, zero_point


def quantize_affine(
    x: Array, scale: npt.ArrayLike, zero_point: npt.ArrayLike, dtype: IntDtype, axis: int | None = None
) -> Array:
    """ONNX QuantizeLinear: `saturate(round_half_even(x / scale) + zero_point)`.

    Args:
        x: float values.
        scale: a number, or `[x.shape[axis]]`.
        zero_point: the same shape as `scale`.
        dtype: type of the result.
        axis: the axis of per-channel parameters; None for per-tensor.
    """
    qmin, qmax = integer_range(dtype)
    steps = np.asarray(x, np.float32) / _along(np.asarray(scale, np.float32), x.ndim, axis)
    zero = _along(np.asarray(zero_point, np.float32), x.ndim, axis)
    # Saturate before the cast: an out-of-range float to integer conversion is undefined.
    codes = np.asarray(np.clip(np.rint(steps) + zero, qmin, qmax).astype(dtype))
    assert codes.shape == x.shape
    return codes


def dequantize_affine(
    q: Array, scale: npt.ArrayLike, zero_point: npt.ArrayLike, axis: int | None = None
) -> FloatArray:
    """ONNX DequantizeLinear: `(q - zero_point) * scale` in float32, the shape of `q`."""
    zero = _along(np.asarray(zero_point, np.int32), q.ndim, axis)
    steps = (q.astype(np.int32) - zero).astype(np.float32)
    values = steps * _along(np.asarray(scale, np.float32), q.ndim, axis)
    assert values.dtype == np.float32 and values.shape == q.shape
    return values


def symmetric_scale(absmax: npt.ArrayLike, bits: int) -> FloatArray:
    """Scale that maps `absmax` to `2 ** (bits - 1) - 1`; 1 where `absmax` is zero."""
    top = np.asarray(absmax, np.float64)
    if not np.isfinite(top).all():
        raise DataError("a largest magnitude is NaN or infinite; finite values were expected")
    scale = np.where(top > 0, np.maximum(top / (2 ** (bits - 1) - 1), _TINY), 1.0).astype(np.float32)
    assert scale.shape == top.shape
    return scale


def round_scale_fp16(scale: npt.ArrayLike) -> FloatArray:
    """The nearest scales float16 can store, as float32, clamped so that none becomes 0 or infinite."""
    exact = np.asarray(scale, np.float32)
    sign = np.where(exact < 0, np.float32(-1), np.float32(1))
    size = np.clip(np.abs(exact), FP16_MIN, FP16_MAX).astype(np.float16).astype(np.float32)
    rounded = np.asarray(sign * size, np.float32)
    assert rounded.shape == exact.shape
    return rounded


def block_count(length: int, block_size: int) -> int:
    """Blocks along an axis of `length`; -1 is one block for the whole axis."""
    return 1 if block_size == -1 else -(-length // block_size)


def split_blocks(rows: Array, block_size: int) -> Array:
    """`[N, K]` as `[N, blocks, block]`, zero-padded where K is not a multiple of the block."""
    n, k = rows.shape
    blocks = block_count(k, block_size)
    width = k if block_size == -1 else block_size
    if blocks * width != k:
        rows = np.pad(rows, ((0, 0), (0, blocks * width - k)))
    result: Array = rows.reshape(n, blocks, width)
    return result


def join_blocks(blocks: Array, length: int) -> Array:
    """The inverse of `split_blocks`: `[N, blocks, block]` to `[N, length]`, padding dropped."""
    result: Array = blocks.reshape(blocks.shape[0], -1)[:, :length]
    return result


def quantize_blocks(
    blocks: FloatArray, scales: FloatArray, zero_points: Array | None, bits: int
) -> ByteArray:
    """Codes `[N, blocks, block]` in `[0, 2 ** bits - 1]`, round half to even, saturated.

    Args:
        blocks: values `[N, blocks, block]`.
        scales: `[N, blocks]`, none zero; negative ones are allowed.
        zero_points: integers `[N, blocks]`; None is the middle `2 ** (bits - 1)`.
        bits: 4 or 8.
    """
    zero = _zero_points(zero_points, bits)
    steps = np.rint(blocks / scales[..., None])
    codes: ByteArray = np.clip(steps + zero, 0, 2**bits - 1).astype(np.uint8)
    assert codes.shape == blocks.shape
    return codes


def dequantize_blocks(
    codes: ByteArray, scales: FloatArray, zero_points: Array | None, bits: int
) -> FloatArray:
    """`(code - zero_point) * scale` as float32 `[N, blocks, block]`."""
    values: FloatArray = (codes.astype(np.float32) - _zero_points(zero_points, bits)) * scales[..., None]
    assert values.dtype == np.float32 and values.shape == codes.shape
    return values


def packed_int4_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape after `pack_int4`: two codes per byte along the last axis, an odd one out padded."""
    return (*shape[:-1], (shape[-1] + 1) // 2)


def pack_int4(codes: Array) -> ByteArray:
    """Two 4-bit codes per byte along the last axis, the first in the low bits; an odd one out gets a 0.

    Takes unsigned codes 0..15 or signed -8..7 (two's complement, as ONNX stores INT4).

    Raises:
        DataError: a code needs more than 4 bits.
    """
    if codes.size and (codes.min() < -8 or codes.max() > 15):
        raise DataError(f"4-bit codes from {codes.min()} to {codes.max()}; expected 0..15 or -8..7")
    nibbles = (codes.astype(np.int16) & 0xF).astype(np.uint8)
    if nibbles.shape[-1] % 2:
        nibbles = np.pad(nibbles, [(0, 0)] * (nibbles.ndim - 1) + [(0, 1)])
    packed: ByteArray = nibbles[..., 0::2] | np.left_shift(nibbles[..., 1::2], np.uint8(4))
    assert packed.dtype == np.uint8 and packed.shape == packed_int4_shape(codes.shape)
    return packed


def unpack_int4(packed: ByteArray, length: int, *, signed: bool = False) -> Array:
    """The inverse of `pack_int4`: `length` codes along the last axis, uint8 0..15 or int8 -8..7."""
    if packed.shape[-1] != (length + 1) // 2:
        raise DataError(
            f"{packed.shape[-1]} packed bytes for {length} 4-bit codes; expected {(length + 1) // 2}"
        )
    nibbles: Array = np.stack([packed & 0xF, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)[
        ..., :length
    ]
    codes: Array = (nibbles.astype(np.int8) ^ 8) - 8 if signed else nibbles
    return codes


def _zero_points(zero_points: Array | None, bits: int) -> FloatArray:
    if zero_points is None:
        return np.asarray(2 ** (bits - 1), np.float32)
    return np.asarray(zero_points, np.float32)[..., None]


def _along(values: Array, ndim: int, axis: int | None) -> Array:
    """Per-channel values `[channels]` shaped to broadcast along `axis`; numbers pass through."""
    if axis is None or values.ndim == 0:
        return values
    shape = [1] * ndim
    shape[axis] = -1
    return values.reshape(shape)
