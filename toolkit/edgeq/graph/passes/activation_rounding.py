"""Twins of a graph whose block-quantized layers round their activations as another CPU's kernels would.

MatMulNBits with accuracy level 4 lets the kernel round its activations to 8 bits, and does not say how. ONNX Runtime's
4-bit kernels round each block around zero, on x86-64 and on ARM64, but for ARM64's KleidiAI kernels, which take layers
without zero points in blocks of a multiple of 32: they round each row between its extremes, and cut the scales of the
weights to bfloat16. Where there is no integer kernel nothing is rounded. The twins spell that out, in front of float
kernels (benchmarks/arm64_roundings.py holds them against emulated ones).
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import numpy as np
import onnx_ir as ir

from edgeq.graph.edit import Editor, attribute
from edgeq.graph.passes.in_place import in_place
from edgeq.types import Array

INT8_LEVEL, FLOAT32_LEVEL = 4, 1
"""Values of MatMulNBits' `accuracy_level`."""
ROUNDED_BITS = 4
ROW_BLOCKS = 32
"""What block sizes of kernels that round rows are multiples of."""
SCALES, ZERO_POINTS = 2, 3
"""Inputs of MatMulNBits."""
FLOAT32 = ir.DataType.FLOAT


class Rounding(StrEnum):
    """What kernels are known to do."""

    NONE = "float32"
    BLOCK = "blocks, around zero"
    ROW = "rows, between their extremes, with scales in bfloat16"


def known_roundings(model: ir.Model) -> tuple[Rounding, ...]:
    """What kernels may do to a graph's activations; nothing where it leaves none of it to them.

    At 8 bits kernels of x86-64 and ARM64 nearly agree, and only float kernels would differ.
    """
    layers = list(_layers(model))
    if not layers:
        return ()
    found = [Rounding.NONE]
    if any(attribute(node, "bits", 4) == ROUNDED_BITS for node in layers):
        found.append(Rounding.BLOCK)
    if any(_rounds_rows(node) for node in layers):
        found.append(Rounding.ROW)
    return tuple(found)


@in_place
def round_activations(model: ir.Model, rounding: Rounding) -> bool:
    """Compute block-quantized layers in one way, wherever the graph is run.

    Layers that kernels of that kind do not take stay with those of the machine.
    """
    editor = Editor(model)
    is_changed = False
    rounded: dict[tuple[ir.Value, int], ir.Value] = {}
    for node in list(_layers(model)):
        value = node.inputs[0]
        if value is None or not _applies(rounding, node):
            continue
        node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", FLOAT32_LEVEL)
        is_changed = True
        if rounding is Rounding.NONE:
            continue
        size = attribute(node, "block_size", 0) if rounding is Rounding.BLOCK else 0
        if (value, size) not in rounded:
            rounded[value, size] = _Rounded(editor, node, value).of(size)
        node.replace_input_with(0, rounded[value, size])
        if rounding is Rounding.ROW:
            _cut_scales(editor, node)
    editor.finish()
    return is_changed


def cut_to_bfloat16(values: Array) -> Array:
    """float32 values whose lower 16 bits are dropped, not rounded."""
    kept: Array = (np.ascontiguousarray(values, np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(
        np.float32
    )
    return kept


def _applies(rounding: Rounding, node: ir.Node) -> bool:
    if rounding is Rounding.NONE:
        return True
    if rounding is Rounding.ROW:
        return _rounds_rows(node)
    has_whole_blocks = bool(attribute(node, "K", 0) % attribute(node, "block_size", 1) == 0)
    return has_whole_blocks and attribute(node, "bits", 4) == ROUNDED_BITS


def _rounds_rows(node: ir.Node) -> bool:
    """Whether KleidiAI has kernels for a layer."""
    has_zero_points = any(value is not None for value in node.inputs[ZERO_POINTS : ZERO_POINTS + 1])
    return bool(
        attribute(node, "bits", 4) == ROUNDED_BITS
        and attribute(node, "block_size", 0) % ROW_BLOCKS == 0
        and not has_zero_points
        and _scales(node) is not None
    )


def _scales(node: ir.Node) -> ir.TensorProtocol | None:
    """What a layer's float32 scales are made of, unread: a constant, also one stored in fewer bits behind a Cast."""
    value = node.inputs[SCALES]
    source = value.producer() if value is not None else None
    is_widened = source is not None and source.op_type == "Cast" and attribute(source, "to", 0) == FLOAT32
    if source is not None and is_widened:
        value = source.inputs[0]
    stored = None if value is None else ir.convenience.get_const_tensor(value)
    return stored if stored is not None and (is_widened or stored.dtype == FLOAT32) else None


def _cut_scales(editor: Editor, node: ir.Node) -> None:
    scales = _scales(node)
    assert scales is not None  # _rounds_rows
    cut = cut_to_bfloat16(scales.numpy().astype(np.float32))
    node.replace_input_with(SCALES, editor.constant(cut, f"{node.name}.scales.bfloat16"))


def _layers(model: ir.Model) -> Iterator[ir.Node]:
    return (
        node
        for node in model.graph
        if node.op_type == "MatMulNBits" and attribute(node, "accuracy_level", 0) == INT8_LEVEL
    )


class _Rounded:
    """Writes the rounding of one tensor to 8 bits."""

    def __init__(self, editor: Editor, node: ir.Node, value: ir.Value) -> None:
        self._editor, self._node, self._value = editor, node, value
        self._name = f"{value.name}.rounded"

    def of(self, block_size: int) -> ir.Value:
        """Rows, which are its last axis, between their extremes; with a block size blocks of them around zero."""
        if not block_size:
            return self._snapped(self._value, self._between(self._value))
        shape = self._op("Shape", [self._value], ir.DataType.INT64)
        axes = self._editor.constant(np.asarray([-1, block_size], np.int64), f"{self._name}.blocks")
        blocks = self._op("Reshape", [self._value, axes])
        return self._op("Reshape", [self._snapped(blocks, self._around_zero(blocks)), shape])

    def _around_zero(self, value: ir.Value) -> ir.Value:
        largest = self._extreme("ReduceMax", self._op("Abs", [value]))
        return self._op("Div", [largest, self._number(127)])

    def _between(self, value: ir.Value) -> ir.Value:
        zero = self._number(0)
        high = self._op("Max", [self._extreme("ReduceMax", value), zero])
        low = self._op("Min", [self._extreme("ReduceMin", value), zero])
        return self._op("Div", [self._op("Sub", [high, low]), self._number(255)])

    def _snapped(self, value: ir.Value, step: ir.Value) -> ir.Value:
        # Zeros have no step.
        step = self._op("Max", [step, self._number(float(np.finfo(np.float32).tiny))])
        return self._op("Mul", [self._op("Round", [self._op("Div", [value, step])]), step])

    def _extreme(self, op_type: str, value: ir.Value) -> ir.Value:
        axes = self._editor.constant(np.asarray([-1], np.int64), f"{self._name}.axes")
        return self._op(op_type, [value, axes])

    def _op(self, op_type: str, inputs: list[ir.Value], dtype: ir.DataType | None = None) -> ir.Value:
        name = self._editor.unique(f"{self._name}.{op_type}")
        return self._editor.op(op_type, inputs, name, before=self._node, dtype=dtype)

    def _number(self, size: float) -> ir.Value:
        return self._editor.constant(np.asarray(size, np.float32), f"{self._name}.number")
