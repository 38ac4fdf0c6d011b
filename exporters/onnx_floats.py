"""Float types of ONNX files: half, bfloat16 and double, written as the float32 that every pass reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeq.graph.passes.in_place import in_place
from edgeq.types import Array

if TYPE_CHECKING:
    import onnx_ir as ir

TYPE_ATTRIBUTES = ("to", "dtype")
"""Attributes that name a type: of `Cast`, and of operators that make numbers."""


@in_place
def widen_floats(model: ir.Model) -> bool:
    """Turn every float of a graph into float32; nothing is modified where there was no other.

    The numbers of half and bfloat16 weights are kept as they are; doubles are rounded, and those beyond the range
    of float32, which masks have, become its largest.
    """
    found = False
    for graph in model.graphs():
        for value in [*graph.inputs, *graph.initializers.values()]:
            found |= _widen_value(value)
        for node in graph:
            for output in node.outputs:
                found |= _widen_value(output)
            found |= _widen_attributes(node)
    if found:
        _drop_casts_to_the_same(model)
    return found


def _other_floats() -> tuple[ir.DataType, ...]:
    import onnx_ir as ir

    return ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE


def _widen_value(value: ir.Value) -> bool:
    import onnx_ir as ir

    tensor = value.const_value
    if tensor is not None and tensor.dtype in _other_floats():
        value.const_value = ir.tensor(as_float32(tensor.numpy()), name=value.name)
    if value.dtype not in _other_floats():
        return False
    value.dtype = ir.DataType.FLOAT
    return True


def as_float32(array: Array) -> Array:
    """The same numbers in float32; finite ones stay finite."""
    limit = np.finfo(np.float32).max
    if array.dtype == np.float64:
        array = np.where(np.isfinite(array), np.clip(array, -limit, limit), array)
    return array.astype(np.float32)


def _widen_attributes(node: ir.Node) -> bool:
    import onnx_ir as ir

    found = False
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype in _other_floats():
            node.attributes[name] = ir.AttrTensor(name, ir.tensor(as_float32(attribute.value.numpy())))
        elif name in TYPE_ATTRIBUTES and attribute.value in [int(one) for one in _other_floats()]:
            node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))
        else:
            continue
        found = True
    return found


def _drop_casts_to_the_same(model: ir.Model) -> None:
    """Casts between half and single precision say nothing any more, and hide the patterns that are fused later."""
    import onnx_ir as ir

    for node in list(model.graph):
        is_float = node.op_type == "Cast" and node.attributes["to"].value == int(ir.DataType.FLOAT)
        source = node.inputs[0] if is_float else None
        # Its own output may be one of the graph's, whose name must stay.
        if source is None or source.dtype != ir.DataType.FLOAT or node.outputs[0].is_graph_output():
            continue
        node.outputs[0].replace_all_uses_with(source)
        model.graph.remove(node, safe=True)
