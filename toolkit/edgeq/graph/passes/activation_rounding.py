"""Twins of a graph whose block-quantized layers round their activations as another CPU's kernels would.

MatMulNBits with accuracy level 4 lets the kernel round its activations to 8 bits, and does not say how: per block, per
row, around zero or between the extremes, or not at all where there is no integer kernel. 4-bit kernels of x86-64 and
ARM64 differ by far more than a last bit. The twins spell some roundings out, in front of float kernels: they stand for
the size of what kernels may do, not for any one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import numpy as np
import onnx_ir as ir

from edgeq.graph.edit import Editor, attribute

INT8_LEVEL, FLOAT32_LEVEL = 4, 1
"""Values of MatMulNBits' `accuracy_level`."""
ROW_BITS = 4


class Rounding(StrEnum):
    """What kernels are known to do."""

    NONE = "float32"
    SYMMETRIC = "row, around zero"
    ASYMMETRIC = "row, between its extremes"


def known_roundings(model: ir.Model) -> tuple[Rounding, ...]:
    """What kernels may do to a graph's activations; nothing where it leaves none of it to them.

    At 4 bits kernels of x86-64 and ARM64 are as far apart as two of these roundings; at 8 bits they nearly
    agree, and only float kernels would differ.
    """
    bits = {attribute(node, "bits", 4) for node in _layers(model)}
    if not bits:
        return ()
    return tuple(Rounding) if ROW_BITS in bits else (Rounding.NONE,)


def with_activation_rounding(model: ir.Model, rounding: Rounding) -> ir.Model:
    """A clone that rounds what block-quantized layers read in one way, wherever it is run."""
    model = model.clone()
    editor = Editor(model)
    rounded: dict[ir.Value, ir.Value] = {}
    for node in list(_layers(model)):
        value = node.inputs[0]
        is_row = rounding is not Rounding.NONE
        if value is None or (is_row and attribute(node, "bits", 4) != ROW_BITS):
            continue
        node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", FLOAT32_LEVEL)
        if is_row and value not in rounded:
            rounded[value] = _Rows(editor, node, value).rounded(rounding)
        if is_row:
            node.replace_input_with(0, rounded[value])
    return editor.finish()


def _layers(model: ir.Model) -> Iterator[ir.Node]:
    return (
        node
        for node in model.graph
        if node.op_type == "MatMulNBits" and attribute(node, "accuracy_level", 0) == INT8_LEVEL
    )


class _Rows:
    """Writes the rounding of one tensor, whose rows are its last axis."""

    def __init__(self, editor: Editor, node: ir.Node, value: ir.Value) -> None:
        self._editor, self._node, self._value = editor, node, value
        self._name = f"{value.name}.rounded"

    def rounded(self, rounding: Rounding) -> ir.Value:
        if rounding is Rounding.SYMMETRIC:
            step = self._op(
                "Div", [self._extreme("ReduceMax", self._op("Abs", [self._value])), self._number(127)]
            )
        else:
            zero = self._number(0)
            high = self._op("Max", [self._extreme("ReduceMax", self._value), zero])
            low = self._op("Min", [self._extreme("ReduceMin", self._value), zero])
            step = self._op("Div", [self._op("Sub", [high, low]), self._number(255)])
        # A row of zeros has no step.
        step = self._op("Max", [step, self._number(float(np.finfo(np.float32).tiny))])
        codes = self._op("Round", [self._op("Div", [self._value, step])])
        return self._op("Mul", [codes, step])

    def _extreme(self, op_type: str, value: ir.Value) -> ir.Value:
        axes = self._editor.constant(np.asarray([-1], np.int64), f"{self._name}.axes")
        return self._op(op_type, [value, axes])

    def _op(self, op_type: str, inputs: list[ir.Value]) -> ir.Value:
        name = self._editor.unique(f"{self._name}.{op_type}")
        return self._editor.op(op_type, inputs, name, before=self._node)

    def _number(self, size: float) -> ir.Value:
        return self._editor.constant(np.asarray(size, np.float32), f"{self._name}.number")
