"""Static int8 in the only form NNAPI takes: Q, DQ, Gemm with per-tensor weights and int32 bias, Q, DQ.

NNAPI allows one scale per weight and insists on a quantized output. A per-channel Mul behind the output makes
both limits harmless: `y = c * (x @ (W / c) + b / c)`, so every output channel has
its own grid although the Gemm has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeq.graph.edit import Editor, constant_of
from edgeq.graph.passes.in_place import in_place
from edgeq.numerics import affine_params, quantize_affine, symmetric_scale
from edgeq.saturation import pair_safe_width, round_pair_safe
from edgeq.types import Array, FloatArray

OUTPUT_SHARE = 0.3
"""How far channel scales follow the output ranges (1) rather than the weight ranges (0).

Chosen on all-MiniLM-L6-v2 with weights that cannot saturate; benchmarks/exactness.py compares it with 0, 0.5 and 1.
"""


@dataclass(frozen=True, slots=True)
class GemmQDQ:
    """How to quantize one Gemm.

    Attributes:
        name: the Gemm's name.
        input_range: `(lo, hi)` of its input.
        output_low: lowest output per channel, `[out]`.
        output_high: highest output per channel, `[out]`.
        bias_shift: added to the bias, `[out]`, or None.
    """

    name: str
    input_range: tuple[float, float]
    output_low: FloatArray
    output_high: FloatArray
    bias_shift: FloatArray | None = None


@in_place
def quantize_gemms(model: ir.Model, gemms: Sequence[GemmQDQ], *, output_share: float = OUTPUT_SHARE) -> bool:
    """Quantize Gemms (transB=0, constant weight and bias)."""
    editor = Editor(model)
    nodes = {node.name: node for node in model.graph}
    quantizer = _GemmQuantizer(editor, output_share)
    for item in gemms:
        quantizer.quantize(nodes[item.name], item)
    editor.finish()
    return bool(gemms)


class _GemmQuantizer:
    def __init__(self, editor: Editor, output_share: float) -> None:
        self.editor = editor
        self.output_share = output_share
        self.inputs: dict[tuple[str, tuple[float, float]], tuple[ir.Value, ir.Value, ir.Value, float]] = {}

    def quantize(self, node: ir.Node, item: GemmQDQ) -> None:
        weight = constant_of(node.inputs[1])
        assert weight is not None
        bias = constant_of(node.inputs[2]) if len(node.inputs) > 2 else None
        bias = np.zeros(weight.shape[1], np.float32) if bias is None else bias
        if item.bias_shift is not None:
            bias = bias + item.bias_shift
        channel = channel_scale(weight, item.output_low, item.output_high, self.output_share)
        input_scale = self._input(node, item)
        weight_scale = self._weight(node, weight / channel)
        self._bias(node, bias / channel, input_scale * weight_scale)
        self._output(node, item, channel)

    def _input(self, node: ir.Node, item: GemmQDQ) -> float:
        value = node.inputs[0]
        assert value is not None and value.name is not None
        key = (value.name, item.input_range)
        if key not in self.inputs:
            scale, zero = affine_params(*item.input_range, "uint8", False)
            self.inputs[key] = (*self._quantizer(value, scale, zero, value.name, node), float(scale))
        quantized, scale_value, zero_value, number = self.inputs[key]
        node.replace_input_with(
            0, self._dequantized([quantized, scale_value, zero_value], f"{item.name}.input", node)
        )
        return number

    def _quantizer(
        self, value: ir.Value, scale: Array, zero: Array, name: str, before: ir.Node | None
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        scale_value = self.editor.constant(scale, f"{name}.scale")
        zero_value = self.editor.constant(zero, f"{name}.zero_point")
        quantized = self.editor.op(
            "QuantizeLinear",
            [value, scale_value, zero_value],
            f"{name}.quantized",
            before=before,
            dtype=ir.DataType.UINT8,
            shape=value.shape,
        )
        return quantized, scale_value, zero_value

    def _dequantized(self, inputs: list[ir.Value], name: str, before: ir.Node | None) -> ir.Value:
        return self.editor.op("DequantizeLinear", list(inputs), name, before=before, shape=inputs[0].shape)

    def _weight(self, node: ir.Node, weight: Array) -> float:
        scale = symmetric_scale(pair_safe_width(weight).max(), 8)
        codes = round_pair_safe(weight, scale)
        self._constant_dq(node, 1, codes, scale, np.array(0, np.int8), "weight")
        return float(scale)

    def _bias(self, node: ir.Node, bias: Array, scale: float) -> None:
        limit = np.iinfo(np.int32).max
        codes = np.clip(np.rint(bias.astype(np.float64) / scale), -limit, limit).astype(np.int32)
        if len(node.inputs) < 3:
            node.resize_inputs(3)
        self._constant_dq(node, 2, codes, np.float32(scale), np.array(0, np.int32), "bias")

    def _constant_dq(
        self, node: ir.Node, index: int, codes: Array, scale: FloatArray | np.float32, zero: Array, part: str
    ) -> None:
        inputs = [
            self.editor.constant(data, f"{node.name}.{part}.{kind}")
            for kind, data in (
                ("quantized", codes),
                ("scale", np.asarray(scale, np.float32)),
                ("zero_point", zero),
            )
        ]
        node.replace_input_with(index, self._dequantized(inputs, f"{node.name}.{part}", node))

    def _output(self, node: ir.Node, item: GemmQDQ, channel: FloatArray) -> None:
        product = node.outputs[0]
        low, high = float((item.output_low / channel).min()), float((item.output_high / channel).max())
        scale, zero = affine_params(low, high, "uint8", False)
        after = next(iter(product.consumers()), None)
        quantized, scale_value, zero_value = self._quantizer(
            product, scale, zero, f"{item.name}.output", after
        )
        restored = self._dequantized([quantized, scale_value, zero_value], f"{item.name}.restored", after)
        factor = self.editor.constant(channel, f"{item.name}.channel_scale")
        scaled = self.editor.op(
            "Mul", [restored, factor], f"{item.name}.rescaled", before=after, shape=product.shape
        )
        reader = quantized.producer()
        assert reader is not None
        self.editor.take_over(product, scaled, reader)


def channel_scale(weight: Array, low: FloatArray, high: FloatArray, output_share: float) -> FloatArray:
    """Per-channel factor `c`, `[out]`, geometric mean one: `range_n ** share * weight_n ** (1 - share)`.

    Args:
        weight: `[in, out]`.
        low: lowest output per channel.
        high: highest output per channel.
        output_share: 1 gives each output channel its own full grid, 0 each weight column.
    """
    reach = np.maximum(np.abs(low), np.abs(high)).astype(np.float64)
    width = pair_safe_width(weight)
    reach = np.maximum(reach, reach.max() * 1e-4 + 1e-12)
    width = np.maximum(width, width.max() * 1e-4 + 1e-12)
    log_scale = output_share * np.log(reach) + (1 - output_share) * np.log(width)
    scale: FloatArray = np.exp(log_scale - log_scale.mean()).astype(np.float32)
    return scale


@in_place
def quantize_tables(model: ir.Model, names: Sequence[str]) -> bool:
    """Embedding tables as uint8 behind a DequantizeLinear, columns equalized first.

    NNAPI takes DQ of a constant followed by Gather (without a Q behind it) and dequantizes the table at every run.
    Tables read by constant ids (positions) were folded into constants with the static shape: there is nothing to do.
    """
    editor = Editor(model)
    lookups = {node.name: node for node in model.graph if node.op_type == "Gather"}
    found = [lookups[name] for name in names if name in lookups]
    for node in found:
        table = constant_of(node.inputs[0])
        assert table is not None
        _quantize_table(editor, node, table)
    editor.finish()
    return bool(found)


def _quantize_table(editor: Editor, node: ir.Node, table: Array) -> None:
    reach = np.maximum(np.abs(table).max(axis=0), 1e-12).astype(np.float64)
    column = np.exp(np.log(reach) - np.log(reach).mean()).astype(np.float32)
    even = table / column
    scale, zero = affine_params(float(even.min()), float(even.max()), "uint8", False)
    codes = quantize_affine(even, scale, zero, "uint8")
    inputs = [
        editor.constant(data, f"{node.name}.table.{kind}")
        for kind, data in (("quantized", codes), ("scale", scale), ("zero_point", zero))
    ]
    restored = editor.op(
        "DequantizeLinear", list(inputs), f"{node.name}.table", before=node, shape=ir.Shape(table.shape)
    )
    node.replace_input_with(0, restored)
    output = node.outputs[0]
    factor = editor.constant(column, f"{node.name}.column_scale")
    after = next(iter(output.consumers()), None)
    scaled = editor.op("Mul", [output, factor], f"{node.name}.rescaled", before=after, shape=output.shape)
    reader = scaled.producer()
    assert reader is not None
    editor.take_over(output, scaled, reader)
