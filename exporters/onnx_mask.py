"""The attention mask of stock ONNX exports: comparisons and expansions, put back as one product."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.exporters.text_encoder import MASKED_SCORE

if TYPE_CHECKING:
    import onnx_ir as ir

MASK = "attention_mask"


def replace_mask(model: ir.Model) -> bool:
    """Replace what is added to attention scores, where it comes from the mask alone, by `(1 - mask) * -10000`.

    Whether the model's own mask was no more than that (no window, no causality) is found by the comparison with
    the original that follows every export.

    Returns:
        Whether a mask was replaced.
    """
    added = [(node, index) for node in model.graph for index in _mask_operands(node)]
    if not added:
        return False
    bias = _attention_bias(model)
    for node, index in added:
        node.replace_input_with(index, bias)
    return True


def _mask_operands(node: ir.Node) -> list[int]:
    """Which inputs of an `Add` in front of a `Softmax` are made of the mask alone."""
    if node.op_type != "Add" or not any(user.op_type == "Softmax" for user in node.outputs[0].consumers()):
        return []
    return [
        index for index, value in enumerate(node.inputs) if value is not None and _sources(value) == {MASK}
    ]


def _sources(value: ir.Value) -> set[str]:
    """Names of the graph inputs whose numbers, not only whose shapes, a value is computed from."""
    found: set[str] = set()
    seen: set[int] = set()
    pending: list[ir.Value | None] = [value]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        producer = current.producer()
        if current.is_graph_input():
            found.add(str(current.name))
        elif producer is not None and producer.op_type != "Shape":
            pending.extend(producer.inputs)
    return found


def _attention_bias(model: ir.Model) -> ir.Value:
    """`[batch, 1, 1, sequence]`: 0 for tokens, -10000 for padding, made at the head of the graph."""
    import onnx_ir as ir

    from edgeq.exporters.naming import SCOPES

    first = model.graph.node(0)
    mask = next(value for value in model.graph.inputs if value.name == MASK)

    def op(scope: str, op_type: str, *inputs: ir.Value | None, **attributes: int) -> ir.Value:
        node = ir.node(op_type, list(inputs), attributes, metadata_props={SCOPES: repr([scope, op_type])})
        node.outputs[0].name = f"{scope}/{op_type.lower()}"
        model.graph.insert_before(first, node)
        return node.outputs[0]

    def number(name: str, array: Any) -> ir.Value:
        tensor = ir.tensor(np.asarray(array), name=name)
        value = ir.Value(
            name=name, shape=ir.Shape(np.shape(array)), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        model.graph.register_initializer(value)
        return value

    as_float = op(MASK, "Cast", mask, to=int(ir.DataType.FLOAT))
    padding = op("attention_bias", "Sub", number("attention_bias_one", np.float32(1)), as_float)
    spread = op("attention_bias", "Unsqueeze", padding, number("attention_bias_axes", np.array([1, 2])))
    return op("attention_bias", "Mul", spread, number("attention_bias_score", np.float32(MASKED_SCORE)))
