"""MIL operators that move data, convert it, and unpack compressed constants."""

from __future__ import annotations

import numpy as np

from edgeq.errors import ModelError, UnsupportedError
from edgeq.targets.coreml.interpreter.blob import unpack_lsb_first
from edgeq.targets.coreml.interpreter.ops_math import Operator, one
from edgeq.types import Array

_CASTS = {"fp16": np.float32, "fp32": np.float32, "int32": np.int32, "bool": np.bool_, "int8": np.int8}
_CASTS |= {"uint8": np.uint8}
"""What `cast` may make; a float16 is held as a float32 and rounded by the machine."""


def cast(x: Array, dtype: str) -> Array:
    """Conversion; floats to integers truncate."""
    if dtype not in _CASTS:
        raise UnsupportedError(f"cast to {dtype!r} is not interpreted")
    return x.astype(_CASTS[dtype])


def _ints(values: Array) -> list[int]:
    return [int(value) for value in values.reshape(-1)]


def reshape(x: Array, shape: Array) -> Array:
    """Reshape; 0 keeps an axis, -1 is inferred."""
    target = [x.shape[axis] if dim == 0 else dim for axis, dim in enumerate(_ints(shape))]
    return x.reshape(target)


def transpose(x: Array, perm: Array) -> Array:
    """Permute the axes."""
    return np.transpose(x, _ints(perm))


def expand_dims(x: Array, axes: Array) -> Array:
    """Insert axes of size 1, positions counted in the result."""
    return np.expand_dims(x, tuple(_ints(axes)))


def squeeze(x: Array, axes: Array) -> Array:
    """Drop axes of size 1."""
    return np.squeeze(x, tuple(_ints(axes)))


def concat(values: tuple[Array, ...], axis: Array, interleave: Array | bool = False) -> Array:
    """Join along an axis; scalars make a vector."""
    if bool(interleave):
        raise UnsupportedError("interleaved concat is not interpreted")
    return np.concatenate([np.atleast_1d(value) for value in values], axis=int(axis))


def split(x: Array, split_sizes: Array, axis: Array) -> tuple[Array, ...]:
    """Cut into parts of given sizes."""
    return tuple(np.split(x, np.cumsum(_ints(split_sizes))[:-1], axis=int(axis)))


def slice_by_size(x: Array, begin: Array, size: Array) -> Array:
    """A window; size -1 reaches to the end."""
    window = []
    for start, count, dim in zip(_ints(begin), _ints(size), x.shape, strict=True):
        stop = dim if count == -1 else start + count
        if start < 0 or stop > dim:
            raise UnsupportedError(f"slice_by_size from {start} to {stop} leaves an axis of {dim}")
        window.append(slice(start, stop))
    return x[tuple(window)]


def slice_by_index(
    x: Array,
    begin: Array,
    end: Array,
    stride: Array | None = None,
    begin_mask: Array | None = None,
    end_mask: Array | None = None,
    squeeze_mask: Array | None = None,
) -> Array:
    """A strided window; masks open an end or drop an axis."""
    rank = x.ndim
    steps = [1] * rank if stride is None else _ints(stride)
    opened = [False] * rank
    starts_open, ends_open, drops = (
        opened if mask is None else [bool(flag) for flag in mask.reshape(-1)]
        for mask in (begin_mask, end_mask, squeeze_mask)
    )
    window: list[slice | int] = []
    for axis, (start, stop, step) in enumerate(zip(_ints(begin), _ints(end), steps, strict=True)):
        if drops[axis]:
            window.append(start)
        else:
            window.append(
                slice(None if starts_open[axis] else start, None if ends_open[axis] else stop, step)
            )
    return x[tuple(window)]


def gather(
    x: Array,
    indices: Array,
    axis: Array | int = 0,
    batch_dims: Array | int = 0,
    validate_indices: Array | bool = False,
) -> Array:
    """Rows by index; Core ML leaves out-of-range indices undefined, so they are errors here."""
    del validate_indices
    if int(batch_dims):
        raise UnsupportedError("gather with batch dimensions is not interpreted")
    _check_range(indices, x.shape[int(axis)])
    return np.take(x, indices, axis=int(axis))


def gather_along_axis(
    x: Array, indices: Array, axis: Array | int = 0, validate_indices: Array | bool = False
) -> Array:
    """One element per index along an axis."""
    del validate_indices
    _check_range(indices, x.shape[int(axis)])
    return np.take_along_axis(x, indices.astype(np.int64), axis=int(axis))


def gather_nd(
    x: Array, indices: Array, batch_dims: Array | int = 0, validate_indices: Array | bool = False
) -> Array:
    """Slices by index tuples."""
    del validate_indices
    if int(batch_dims):
        raise UnsupportedError("gather_nd with batch dimensions is not interpreted")
    for position in range(indices.shape[-1]):
        _check_range(indices[..., position], x.shape[position])
    return np.asarray(x[tuple(np.moveaxis(indices, -1, 0))])


def _check_range(indices: Array, size: int) -> None:
    if indices.size and (indices.min() < 0 or indices.max() >= size):
        raise UnsupportedError(
            f"indices {indices.min()}..{indices.max()} leave an axis of {size}; Core ML does not define that"
        )


def tile(x: Array, reps: Array) -> Array:
    """Repeat whole axes."""
    return np.tile(x, _ints(reps))


def pad(x: Array, pad: Array, mode: str, constant_val: Array) -> Array:
    """Pad with a constant."""
    if mode != "constant":
        raise UnsupportedError(f"pad mode {mode!r} is not interpreted")
    pairs = np.asarray(pad).reshape(-1, 2).tolist()
    return np.pad(x, [[0, 0]] * (x.ndim - len(pairs)) + pairs, constant_values=constant_val.item())


def cumsum(x: Array, axis: Array, exclusive: Array | bool = False, reverse: Array | bool = False) -> Array:
    """Running sum."""
    along = int(axis)
    source = np.flip(x, along) if bool(reverse) else x
    total = np.cumsum(source, axis=along, dtype=x.dtype)
    total = total - source if bool(exclusive) else total
    return np.flip(total, along) if bool(reverse) else total


def select(cond: Array, a: Array, b: Array) -> Array:
    """`a` where the condition holds, else `b`."""
    return np.where(cond, a, b)


def shape(x: Array) -> Array:
    """The shape as int32."""
    return np.array(x.shape, np.int32)


def quantize(
    input: Array, scale: Array, output_dtype: str, zero_point: Array | None = None, axis: Array | None = None
) -> Array:
    """`clip(round(input / scale) + zero_point)`, halves to even.

    Raises:
        ModelError: a value is NaN: there is no code for it, and whatever is written hides it.
    """
    if output_dtype not in ("int8", "uint8"):
        raise UnsupportedError(f"quantize to {output_dtype!r} is not interpreted")
    info = np.iinfo(np.dtype(output_dtype))
    zero = np.float32(0) if zero_point is None else _along(zero_point.astype(np.float32), input.ndim, axis)
    if np.isnan(input).any():
        raise ModelError("NaN values reach a quantization, which has no code for them")
    codes = np.rint(input / _along(scale, input.ndim, axis)) + zero
    return np.asarray(np.clip(codes, info.min, info.max).astype(output_dtype))


def dequantize(
    input: Array, scale: Array, zero_point: Array | None = None, axis: Array | None = None
) -> Array:
    """`(input - zero_point) * scale`."""
    zero = np.float32(0) if zero_point is None else _along(zero_point.astype(np.float32), input.ndim, axis)
    return np.asarray((input.astype(np.float32) - zero) * _along(scale, input.ndim, axis))


def _along(values: Array, rank: int, axis: Array | None) -> Array:
    if values.ndim == 0 or axis is None:
        return values
    target = [1] * rank
    target[int(axis)] = -1
    return values.reshape(target)


def constexpr_affine_dequantize(quantized_data: Array, scale: Array, zero_point: Array, axis: Array) -> Array:
    """8-bit weights with one scale per channel."""
    return dequantize(quantized_data, scale, zero_point, axis if scale.ndim else None)


def constexpr_blockwise_shift_scale(data: Array, scale: Array, offset: Array | None = None) -> Array:
    """Weights with a scale per block along every axis."""
    values = data.astype(np.float32)
    if offset is not None:
        values = values - _spread(offset.astype(np.float32), data.shape)
    return np.asarray(values * _spread(scale, data.shape))


def _spread(values: Array, target: tuple[int, ...]) -> Array:
    """Repeat per-block values to the size of the data, broadcasting where one block spans an axis."""
    for axis, (have, want) in enumerate(zip(values.shape, target, strict=True)):
        if have not in (1, want):
            values = np.repeat(values, want // have, axis=axis)
    return values


def constexpr_lut_to_dense(
    indices: Array, lut: Array, shape: Array | None = None, vector_axis: Array | None = None
) -> Array:
    """Palettized weights: packed indices and one table (iOS 16), or a table per group (iOS 18)."""
    if shape is not None:
        bits = int(np.log2(len(lut)))
        count = int(np.prod(_ints(shape)))
        return lut[unpack_lsb_first(indices, bits)[:count]].reshape(_ints(shape))
    if vector_axis is not None or lut.shape[-1] != 1:
        raise UnsupportedError("vector palettization is not interpreted")
    tables = _spread_tables(lut[..., 0], indices.shape)
    return np.take_along_axis(tables, indices[..., None].astype(np.int64), axis=-1)[..., 0]


def _spread_tables(tables: Array, target: tuple[int, ...]) -> Array:
    for axis, want in enumerate(target):
        have = tables.shape[axis]
        if have != want:
            tables = np.repeat(tables, want // have, axis=axis) if have > 1 else tables
    return np.broadcast_to(tables, (*target, tables.shape[-1]))


LAYOUT: dict[str, Operator] = {
    "cast": cast,
    "concat": concat,
    "constexpr_affine_dequantize": constexpr_affine_dequantize,
    "constexpr_blockwise_shift_scale": constexpr_blockwise_shift_scale,
    "constexpr_lut_to_dense": constexpr_lut_to_dense,
    "cumsum": cumsum,
    "dequantize": dequantize,
    "expand_dims": expand_dims,
    "gather": gather,
    "gather_along_axis": gather_along_axis,
    "gather_nd": gather_nd,
    "identity": one(lambda x: x),
    "pad": pad,
    "quantize": quantize,
    "reshape": reshape,
    "select": select,
    "shape": shape,
    "slice_by_index": slice_by_index,
    "slice_by_size": slice_by_size,
    "split": split,
    "squeeze": squeeze,
    "tile": tile,
    "transpose": transpose,
}
