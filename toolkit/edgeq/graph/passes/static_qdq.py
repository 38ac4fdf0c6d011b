"""Static int8 in QDQ form on the inputs of linear layers: the form ONNX Runtime fuses into integer kernels.

Only inputs are quantized. Quantizing a MatMul's output as well adds a second error and stops the fusion into
MatMulIntegerToFloat, which returns float anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from edgeq.graph.edit import Editor, attribute
from edgeq.graph.passes.in_place import in_place
from edgeq.graph.passes.shift_biases import shift_bias
from edgeq.graph.static_weight import StaticWeight, nearest_codes
from edgeq.numerics import IntDtype, affine_params, quantize_affine, symmetric_scale
from edgeq.saturation import CODE_LIMIT
from edgeq.types import Array, FloatArray


@dataclass(frozen=True, slots=True)
class LinearQDQ:
    """How to quantize one linear layer.

    Attributes:
        name: the MatMul's name.
        input_range: `(lo, hi)` of its input.
        bias_shift: added to the bias, `[out]`, or None.
    """

    name: str
    input_range: tuple[float, float]
    bias_shift: FloatArray | None = None


_NEAREST: Mapping[str, StaticWeight] = MappingProxyType({})


@in_place
def quantize_linears(
    model: ir.Model,
    linears: Sequence[LinearQDQ],
    weights: Mapping[str, StaticWeight] = _NEAREST,
    *,
    activation_dtype: IntDtype = "uint8",
) -> bool:
    """Insert Q/DQ around the inputs of MatMuls and int8 per-channel weights behind a DQ.

    Args:
        model: a graph whose MatMul weights are `[in, out]` initializers.
        linears: what to quantize.
        weights: codes by initializer; what is not there is rounded to nearest.
        activation_dtype: uint8 is what x86-64 kernels take; int8 has the same grid, shifted by 128.
    """
    editor = Editor(model)
    nodes = {node.name: node for node in model.graph}
    inputs: dict[tuple[str, tuple[float, float]], tuple[ir.Value, ir.Value, ir.Value]] = {}
    done: dict[str, tuple[ir.Value, ir.Value, ir.Value, int]] = {}
    for item in linears:
        node = nodes[item.name]
        _quantize_input(editor, node, item, activation_dtype, inputs)
        _quantize_weight(editor, node, weights, done)
        if item.bias_shift is not None:
            shift_bias(editor, node, item.bias_shift)
    editor.finish()
    return bool(linears)


def _quantize_input(
    editor: Editor,
    node: ir.Node,
    item: LinearQDQ,
    dtype: IntDtype,
    done: dict[tuple[str, tuple[float, float]], tuple[ir.Value, ir.Value, ir.Value]],
) -> None:
    value = node.inputs[0]
    assert value is not None and value.name is not None
    key = (value.name, item.input_range)
    if key not in done:
        scale, zero_point = affine_params(*item.input_range, dtype, False)
        scale_value = editor.constant(scale, f"{value.name}.scale")
        zero_value = editor.constant(zero_point, f"{value.name}.zero_point")
        quantized = editor.op(
            "QuantizeLinear",
            [value, scale_value, zero_value],
            f"{value.name}.quantized",
            before=node,
            dtype=ir.DataType.from_numpy(zero_point.dtype),
            shape=value.shape,
        )
        done[key] = (quantized, scale_value, zero_value)
    # One DequantizeLinear per reader: ONNX Runtime forms a QDQ group only around a DQ with one consumer.
    restored = editor.op(
        "DequantizeLinear", list(done[key]), f"{item.name}.input", before=node, shape=value.shape
    )
    node.replace_input_with(0, restored)


def _quantize_weight(
    editor: Editor,
    node: ir.Node,
    weights: Mapping[str, StaticWeight],
    done: dict[str, tuple[ir.Value, ir.Value, ir.Value, int]],
) -> None:
    value = node.inputs[1]
    assert value is not None and value.name is not None and value.const_value is not None
    if value.name not in done:
        axis = 0 if attribute(node, "transB", 0) else 1
        data = value.const_value.numpy()
        found = weights.get(value.name) or nearest_codes(data if axis else data.T)
        done[value.name] = (
            editor.constant(found.codes if axis else found.codes.T, f"{value.name}.quantized"),
            editor.constant(found.scale, f"{value.name}.scale"),
            editor.constant(np.zeros(found.scale.shape, np.int8), f"{value.name}.zero_point"),
            axis,
        )
    codes_value, scale_value, zero_value, axis = done[value.name]
    restored = editor.op(
        "DequantizeLinear",
        [codes_value, scale_value, zero_value],
        f"{node.name}.weight",
        before=node,
        attributes={"axis": axis},
        shape=value.shape,
    )
    node.replace_input_with(1, restored)


def quantize_rows(table: Array) -> tuple[Array, FloatArray]:
    """Symmetric int8 codes and one scale per row of a table that is looked up, not multiplied."""
    scale = symmetric_scale(np.abs(table).max(axis=1), 8)
    codes = quantize_affine(table, scale, np.zeros(scale.shape, np.int8), "int8", axis=0)
    return np.maximum(codes, -CODE_LIMIT), scale


@in_place
def quantize_embeddings(model: ir.Model, names: Sequence[str]) -> bool:
    """Store embedding tables as int8 with one scale per row: Gather codes, Gather scales, Cast, Mul."""
    editor = Editor(model)
    nodes = {node.name: node for node in model.graph}
    tables: Mapping[str, tuple[ir.Value, ir.Value]] = {}
    for name in names:
        node = nodes[name]
        tables = {**tables, **_row_table(editor, node, tables)}
        _replace_gather(editor, node, *tables[str(node.inputs[0].name)])  # type: ignore[union-attr]
    editor.finish()
    return bool(names)


def _row_table(
    editor: Editor, node: ir.Node, done: Mapping[str, tuple[ir.Value, ir.Value]]
) -> dict[str, tuple[ir.Value, ir.Value]]:
    table = node.inputs[0]
    assert table is not None and table.name is not None and table.const_value is not None
    if table.name in done:
        return {}
    codes, scale = quantize_rows(table.const_value.numpy())
    return {
        table.name: (
            editor.constant(codes, f"{table.name}.quantized"),
            editor.constant(scale[:, None], f"{table.name}.scale"),
        )
    }


def _replace_gather(editor: Editor, node: ir.Node, codes: ir.Value, scale: ir.Value) -> None:
    ids, old = node.inputs[1], node.outputs[0]
    rows = editor.op(
        "Gather", [codes, ids], f"{node.name}.codes", before=node, dtype=ir.DataType.INT8, shape=old.shape
    )
    scales = editor.op("Gather", [scale, ids], f"{node.name}.scales", before=node)
    floats = editor.op(
        "Cast",
        [rows],
        f"{node.name}.cast",
        before=node,
        attributes={"to": ir.DataType.FLOAT},
        shape=old.shape,
    )
    editor.replace(
        old, editor.op("Mul", [floats, scales], f"{node.name}.dequantized", before=node, shape=old.shape)
    )
