"""From what torch exports to the canonical graph: named dimensions, constant reshapes, shared constants, readable names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from edgeq.exporters.naming import name_constants, name_nodes
from edgeq.graph.canonical import BATCH, SEQUENCE

if TYPE_CHECKING:
    import onnx_ir as ir

IR_VERSION = 10


def canonicalize(model: ir.Model, prefixes: Sequence[str]) -> ir.Model:
    """Turn a traced graph into the canonical one, in place.

    Args:
        model: traced with `batch` and `sequence` free; weights may still be torch tensors.
        prefixes: module paths that hold the model itself (`model`, `model.bert`), left out of names.
    """
    steps: tuple[Callable[[ir.Model], object], ...] = (
        _lift_constants,
        name_dimensions,
        measure_shapes_on_input,
        fold_reshapes,
        remove_unused,
        share_constants,
        lambda m: name_nodes(m, prefixes),
        name_constants,
        strip_metadata,
    )
    for step in steps:
        step(model)
    return model


def _lift_constants(model: ir.Model) -> None:
    from onnx_ir.passes.common import LiftConstantsToInitializersPass

    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)


def remove_unused(model: ir.Model) -> None:
    """Drop dead nodes, initializers, functions and opset imports."""
    from onnx_ir.passes import common

    for step in (
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
    ):
        step(model)


def name_dimensions(model: ir.Model) -> None:
    """Rename the tracer's symbols (`s18`) to `batch` and `sequence`, in every shape and in expressions of them."""
    import onnx_ir as ir

    batch, sequence = (str(dim.value) for dim in model.graph.inputs[0].shape or ())
    names = {batch: BATCH, sequence: SEQUENCE}

    def renamed(dim: Any) -> Any:
        if isinstance(dim, int) or dim.value is None:
            return dim
        return ir.SymbolicDim(re.sub(r"\w+", lambda match: names.get(match[0], match[0]), str(dim.value)))

    for value in _values(model.graph):
        if value.shape is not None:
            value.shape = ir.Shape([renamed(dim) for dim in value.shape])


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *(value for node in graph for value in node.outputs)]


def _measured_dim(value: ir.Value | None) -> str | None:
    """The free dimension that a value measures, when it is a `Shape` of exactly one dimension."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "Shape" or node.inputs[0] is None or node.inputs[0].shape is None:
        return None
    measured = node.inputs[0].shape[_int(node, "start", 0) : _int(node, "end", None)]
    return str(measured[0].value) if len(measured) == 1 and not isinstance(measured[0], int) else None


def _int(node: ir.Node, name: str, default: int | None) -> int | None:
    return int(node.attributes[name].value) if name in node.attributes else default


def measure_shapes_on_input(model: ir.Model) -> None:
    """Let every `Shape` read the first input, so that dropping another input leaves no shape behind."""
    import onnx_ir as ir

    first = model.graph.inputs[0]
    kept: dict[str, ir.Value] = {}
    for node in list(model.graph):
        dim = _measured_dim(node.outputs[0])
        if dim not in (BATCH, SEQUENCE):
            continue
        if dim in kept:
            node.outputs[0].replace_all_uses_with(kept[dim], replace_graph_outputs=True)
            continue
        axis = (BATCH, SEQUENCE).index(dim)
        node.replace_input_with(0, first)
        node.attributes["start"] = ir.AttrInt64("start", axis)
        node.attributes["end"] = ir.AttrInt64("end", axis + 1)
        kept[dim] = node.outputs[0]


def fold_reshapes(model: ir.Model) -> None:
    """Make the shape of a `Reshape` constant where its free dimensions stay in place: 0 copies a dimension."""
    for node in list(model.graph):
        if node.op_type == "Reshape":
            shape = _constant_shape(node)
            if shape is not None:
                node.replace_input_with(
                    1, _constant(model.graph, np.array(shape, np.int64), f"{node.name}_shape")
                )
                node.attributes.pop("allowzero", None)


def _constant_shape(node: ir.Node) -> list[int] | None:
    """Target of a Reshape with 0 for a dimension copied from the input, or None when that cannot say it."""
    data, target = node.inputs[0], node.inputs[1]
    concat = target.producer() if target is not None else None
    if concat is None or concat.op_type != "Concat" or data is None or data.shape is None:
        return None
    result: list[int] = []
    for position, value in enumerate(concat.inputs):
        entry = _shape_entry(value, position, data.shape)
        if entry is None:
            return None
        result.append(entry)
    return result if result.count(-1) <= 1 else None


def _shape_entry(value: ir.Value | None, position: int, shape: ir.Shape) -> int | None:
    """One entry of a Reshape's target: a number, 0 for the input's own dimension, -1 for any other free one."""
    constant = value.const_value if value is not None else None
    if constant is not None:
        number = constant.numpy().reshape(-1)
        return int(number[0]) if number.size == 1 and number[0] != 0 else None
    dim = _measured_dim(value)
    if dim is None:
        return None
    same = (
        position < len(shape) and not isinstance(shape[position], int) and str(shape[position].value) == dim
    )
    return 0 if same else -1


def _constant(graph: ir.Graph, array: np.ndarray[Any, Any], name: str) -> ir.Value:
    import onnx_ir as ir

    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape, value.dtype = ir.Shape(array.shape), value.const_value.dtype if value.const_value else None
    graph.register_initializer(value)
    return value


def share_constants(model: ir.Model) -> None:
    """One initializer for equal constants; a weight that a model uses in several places is stored once.

    The tensors are turned into numpy arrays over the same memory, so that nothing downstream needs torch.
    """
    import onnx_ir as ir

    kept: dict[tuple[Any, ...], ir.Value] = {}
    for value in list(model.graph.initializers.values()):
        if value.const_value is None:
            continue
        array = np.ascontiguousarray(value.const_value.numpy()).reshape(value.const_value.shape.numpy())
        digest = hashlib.sha256(array.reshape(-1).view(np.uint8)).digest() if array.size else b""
        first = kept.setdefault((array.dtype.str, array.shape, digest), value)
        if first is value:
            value.const_value = ir.tensor(array, name=value.name)
            value.shape, value.dtype = ir.Shape(array.shape), value.const_value.dtype
        else:
            value.replace_all_uses_with(first)
            del model.graph.initializers[str(value.name)]


def strip_metadata(model: ir.Model) -> None:
    """Drop what differs between machines and says nothing about the model: traces, doc strings, producer."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    ClearMetadataAndDocStringPass()(model)
    for value in [*_values(model.graph), *model.graph.initializers.values()]:
        value.metadata_props.clear()
        value.meta.clear()
    model.graph.name = "edgeq"
    model.producer_name, model.producer_version = "edgeq", None
    model.domain, model.model_version, model.doc_string = None, None, None
    model.ir_version = IR_VERSION
