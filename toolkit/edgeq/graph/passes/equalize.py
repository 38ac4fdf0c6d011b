"""Apply a plan's equalizations: the graph computes the same in float, its activations have narrower channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import onnx_ir as ir

from edgeq.errors import UnsupportedError
from edgeq.graph.edit import Editor, attribute, bias_input, constant_of
from edgeq.graph.passes.in_place import in_place
from edgeq.types import FloatArray


class EqualizationLike(Protocol):
    """The part of a plan this pass reads."""

    @property
    def tensor(self) -> str: ...  # noqa: D102
    @property
    def linears(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def scale(self) -> FloatArray: ...  # noqa: D102
    @property
    def folded_into(self) -> str | None: ...  # noqa: D102


def equalized_name(tensor: str) -> str:
    """Name of an activation after its explicit Mul."""
    return f"{tensor}.equalized"


@in_place
def equalize(model: ir.Model, equalizations: Sequence[EqualizationLike]) -> bool:
    """Divide activations by `scale` and multiply the weights behind them.

    The division is an explicit Mul by `1 / scale` shared by every layer that reads the tensor, or sits in the output
    columns of the layer named by `folded_into`.

    Raises:
        UnsupportedError: one weight would need two different scales.
    """
    editor = Editor(model)
    nodes = {node.name: node for node in model.graph}
    scaled: dict[tuple[str, str], FloatArray] = {}
    for item in equalizations:
        linears = [nodes[name] for name in item.linears]
        for node in linears:
            _scale_weight(model, node, item.scale, "rows", scaled)
        if item.folded_into is not None:
            _scale_weight(model, nodes[item.folded_into], np.float32(1) / item.scale, "columns", scaled)
        else:
            _insert_mul(editor, linears, item)
    editor.finish()
    return bool(equalizations)


def _insert_mul(editor: Editor, linears: list[ir.Node], item: EqualizationLike) -> None:
    value = linears[0].inputs[0]
    assert value is not None
    inverse = editor.constant((1 / item.scale).astype(np.float32), f"{item.tensor}.equalization")
    divided = editor.op(
        "Mul", [value, inverse], equalized_name(item.tensor), before=linears[0], shape=value.shape
    )
    for node in linears:
        node.replace_input_with(0, divided)


def _scale_weight(
    model: ir.Model, node: ir.Node, factor: FloatArray, along: str, scaled: dict[tuple[str, str], FloatArray]
) -> None:
    """Multiply a weight's input rows or output columns, once however many layers share it."""
    weight = node.inputs[1]
    assert weight is not None and weight.name is not None
    before = scaled.get((weight.name, along))
    if before is not None and not np.array_equal(before, factor):
        raise UnsupportedError(
            f"layers that share the weight `{weight.name}` were given different equalization scales"
        )
    if before is None:
        scaled[weight.name, along] = factor
        transposed = bool(attribute(node, "transB", 0))
        _multiply(weight, factor, axis=(0 if along == "rows" else 1) ^ int(transposed))
    if along == "columns":
        _scale_bias(model, node, factor)


def _scale_bias(model: ir.Model, node: ir.Node, factor: FloatArray) -> None:
    """The layer's own bias, copied first: equal biases of other layers may share the initializer."""
    place = bias_input(node)
    if place is None:
        return
    user, index = place
    value = user.inputs[index]
    data = constant_of(value)
    assert value is not None and data is not None
    scaled = (data.astype(np.float64) * factor).astype(np.float32)
    user.replace_input_with(index, Editor(model).constant(scaled, f"{value.name}.equalized"))


def _multiply(value: ir.Value, factor: FloatArray, axis: int) -> None:
    assert value.const_value is not None
    data = value.const_value.numpy()
    shape = [1] * data.ndim
    shape[axis] = -1
    product = (data.astype(np.float64) * factor.reshape(shape)).astype(np.float32)
    value.const_value = ir.tensor(product, name=value.name)
