"""Weights as MIL constants, dense or compressed, one per initializer however many layers read it."""

from __future__ import annotations

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.numerics import affine_params, quantize_affine, round_scale_fp16, symmetric_scale
from edgeq.quantize.weight_only.palette import palettize
from edgeq.targets.coreml.context import Context, Var, safe_name
from edgeq.targets.coreml.decisions import (
    Codes,
    Int4Weight,
    Int8Weight,
    PaletteWeight,
    WeightDecision,
    equalization_of,
)
from edgeq.targets.coreml.known import Known
from edgeq.types import Array, FloatArray


def linear_weight(context: Context, known: Known, dtype: str, name: str) -> Var:
    """An ONNX `[in, out]` matrix as the `[out, in]` weight of MIL `linear`."""
    turned = Known(tuple(value.T for value in known.per_length), known.source, not known.transposed)
    return row_weight(context, turned, dtype, name)


def row_weight(context: Context, known: Known, dtype: str, name: str) -> Var:
    """A matrix whose rows are output channels or vocabulary entries, as its decision says.

    Raises:
        UnsupportedError: the decision does not fit the matrix.
    """
    decision = None if known.source is None else context.weights.get(known.source)
    key = ("const", known.source, known.transposed, dtype)
    if decision is None:
        return context.constant(known, dtype, str(known.source or name))
    if key not in context.shared:
        assert known.source is not None
        context.applied.add(known.source)
        rows = np.ascontiguousarray(known.longest, np.float32)
        context.shared[key] = _compressed(context, rows, decision, dtype, known.source)
    return context.shared[key]


def _compressed(context: Context, rows: FloatArray, decision: WeightDecision, dtype: str, name: str) -> Var:
    if rows.ndim != 2:
        raise UnsupportedError(f"weight `{name}` has shape {rows.shape}; only matrices are compressed")
    if isinstance(decision, Int8Weight):
        return _int8(context, rows, decision, dtype, name)
    if isinstance(decision, Int4Weight):
        return _int4(context, rows, decision, dtype, name)
    return _palette(context, rows, decision, dtype, name)


def _int8(context: Context, rows: FloatArray, decision: Int8Weight, dtype: str, name: str) -> Var:
    codes = decision.codes or int8_codes(_equalized(rows, decision), dtype)
    _check_codes(codes, rows.shape, name, bits=8)
    scale = _float(codes.scale, dtype)
    if context.ios >= 18:
        offset = {} if codes.zero_point is None else {"offset": codes.zero_point.astype(np.int8)}
        return context.mb.constexpr_blockwise_shift_scale(
            data=codes.values, scale=scale, name=safe_name(name), **offset
        )
    zero = (
        np.zeros(len(rows), np.int8) if codes.zero_point is None else codes.zero_point[:, 0].astype(np.int8)
    )
    return context.mb.constexpr_affine_dequantize(
        quantized_data=codes.values,
        scale=scale[:, 0],
        zero_point=zero,
        axis=np.int32(0),
        name=safe_name(name),
    )


def _int4(context: Context, rows: FloatArray, decision: Int4Weight, dtype: str, name: str) -> Var:
    from coremltools.converters.mil.mil.types.type_mapping import np_int4_dtype

    if rows.shape[1] % decision.block_size:
        raise UnsupportedError(
            f"weight `{name}` has {rows.shape[1]} columns, not a multiple of block {decision.block_size}",
            hint="choose a block size that divides it, or int8 for this weight",
        )
    codes = decision.codes or int4_codes(_equalized(rows, decision), decision.block_size)
    _check_codes(codes, rows.shape, name, bits=4)
    offset = (
        {} if codes.zero_point is None else {"offset": codes.zero_point.astype(np.int8).astype(np_int4_dtype)}
    )
    return context.mb.constexpr_blockwise_shift_scale(
        data=codes.values.astype(np.int8).astype(np_int4_dtype),
        scale=_float(codes.scale, dtype),
        name=safe_name(name),
        **offset,
    )


def _palette(context: Context, rows: FloatArray, decision: PaletteWeight, dtype: str, name: str) -> Var:
    palette = decision.palette or palettize(rows, decision.bits, group_rows=decision.group_rows)
    if palette.indices.shape != rows.shape:
        raise UnsupportedError(
            f"the palette of `{name}` has indices {palette.indices.shape}; expected {rows.shape}"
        )
    luts = _float(palette.luts, dtype)
    if context.ios >= 18:
        from coremltools.converters.mil.mil.types import type_mapping

        index_dtype = type_mapping.string_to_nptype(f"uint{decision.bits}")
        return context.mb.constexpr_lut_to_dense(
            indices=palette.indices.astype(index_dtype), lut=luts[:, None, :, None], name=safe_name(name)
        )
    return context.mb.constexpr_lut_to_dense(
        indices=pack_lsb_first(palette.indices, decision.bits),
        lut=luts[0],
        shape=np.array(rows.shape, np.uint32),
        name=safe_name(name),
    )


def int8_codes(rows: FloatArray, dtype: str) -> Codes:
    """Symmetric int8 per row, scales rounded to what the package stores."""
    top = np.abs(rows).max(axis=1)
    exact, _ = affine_params(-top, top, "int8", True)
    scale = round_scale_fp16(exact) if dtype == "fp16" else exact
    return Codes(quantize_affine(rows, scale, np.zeros(len(rows)), "int8", axis=0), scale[:, None])


def int4_codes(rows: FloatArray, block_size: int) -> Codes:
    """Symmetric 4-bit by rounding to nearest, the whole range -8..7 in use.

    The largest magnitude of a block maps to -8 with a scale of its opposite sign, which wastes no code.
    """
    blocks = rows.reshape(len(rows), -1, block_size)
    extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2)[..., None], axis=2)[..., 0]
    scale = round_scale_fp16(np.where(extreme == 0, symmetric_scale(extreme, 4), extreme / -8))
    codes = np.clip(np.rint(blocks / scale[..., None]), -8, 7).astype(np.int8)
    return Codes(codes.reshape(rows.shape), scale)


def pack_lsb_first(indices: Array, bits: int) -> Array:
    """Indices packed in `bits` each, least significant bit first, across byte borders (iOS 16 layout)."""
    planes = (indices.reshape(-1, 1) >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(planes.astype(np.uint8).reshape(-1), bitorder="little")


def _equalized(rows: FloatArray, decision: WeightDecision) -> FloatArray:
    scale = equalization_of(decision)
    return rows if scale is None else rows * scale[None, :]


def _float(values: FloatArray, dtype: str) -> Array:
    return values.astype(np.float16 if dtype == "fp16" else np.float32)


def _check_codes(codes: Codes, shape: tuple[int, ...], name: str, bits: int) -> None:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    fits = codes.values.shape == shape and codes.scale.ndim == 2 and len(codes.scale) == shape[0]
    if not fits or shape[1] % codes.scale.shape[1]:
        raise UnsupportedError(
            f"codes of `{name}` have shape {codes.values.shape} and scales {codes.scale.shape}; "
            f"expected {shape} and [rows, blocks] with blocks dividing the columns"
        )
    if codes.values.min() < low or codes.values.max() > high:
        raise UnsupportedError(f"codes of `{name}` leave the {bits}-bit range {low}..{high}")
