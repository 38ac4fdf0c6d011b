"""Corrections of layers' biases: a mean error of a quantized layer's outputs is taken back there."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from edgeq.graph.edit import Editor, bias_input, constant_of
from edgeq.graph.passes.in_place import in_place
from edgeq.types import FloatArray


@in_place
def shift_biases(model: ir.Model, shifts: Mapping[str, FloatArray]) -> bool:
    """Add to the biases of layers.

    Args:
        model: a graph of MatMul and Gemm layers.
        shifts: what is added, `[out]`, by the layer's name.
    """
    editor = Editor(model)
    nodes = {str(node.name): node for node in model.graph}
    for name, shift in shifts.items():
        shift_bias(editor, nodes[name], shift)
    editor.finish()
    return bool(shifts)


def shift_bias(editor: Editor, node: ir.Node, shift: FloatArray) -> None:
    """Add `shift` to the layer's own bias, or give it one."""
    place = bias_input(node)
    if place is None:
        _add_bias(editor, node, shift)
        return
    user, index = place
    data = constant_of(user.inputs[index])
    assert data is not None
    user.replace_input_with(index, editor.constant((data + shift).astype(np.float32), f"{node.name}.bias"))


def _add_bias(editor: Editor, node: ir.Node, bias: FloatArray) -> None:
    product = node.outputs[0]
    value = editor.constant(bias, f"{node.name}.bias")
    shifted = editor.op("Add", [product, value], f"{node.name}.shifted", shape=product.shape)
    adder = shifted.producer()
    assert adder is not None
    editor.take_over(product, shifted, adder)
