"""From what torch exports to the canonical graph: named dimensions, constant reshapes, shared constants."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.exporters.naming import name_constants, name_nodes
from edgeq.graph.component import BATCH, SEQUENCE
from edgeq.graph.passes.in_place import in_place
from edgeq.graph.passes.sequence import run_passes
from edgeq.graph.streamed_tensor import streamed
from edgeq.types import Array

if TYPE_CHECKING:
    import onnx_ir as ir

IR_VERSION = 10


def canonicalize(model: ir.Model, prefixes: Sequence[str]) -> None:
    """Turn a traced graph into the canonical one, in place.

    Args:
        model: traced with `batch` and `sequence` free; weights may still be torch tensors.
        prefixes: module paths that hold the model itself (`model`, `model.bert`), left out of names.
    """
    run_passes(
        model,
        *lift_constants(),
        name_dimensions(),
        measure_shapes_on_input(),
        fold_reshapes(),
        multiply_by_constants(),
        unfold_gemm(),
        *remove_unused(),
        share_constants(),
        share_tied_heads(),
        name_nodes(prefixes),
        name_constants(),
        strip_metadata(),
    )


def lift_constants() -> tuple[ir.passes.PassBase, ...]:
    """Constants as initializers."""
    from onnx_ir.passes.common import LiftConstantsToInitializersPass

    return (LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),)


def remove_unused() -> tuple[ir.passes.PassBase, ...]:
    """Drop dead nodes, initializers and opset imports."""
    from onnx_ir.passes import common

    return common.RemoveUnusedNodesPass(), common.RemoveUnusedOpsetsPass()


@in_place
def name_dimensions(model: ir.Model) -> bool:
    """Rename the tracer's symbols (`s18`) to `batch` and `sequence`, alone and in expressions."""
    import onnx_ir as ir

    batch, sequence = (_symbol(dim) for dim in model.graph.inputs[0].shape or ())
    names = {str(batch): BATCH, str(sequence): SEQUENCE}

    def renamed(dim: Any) -> Any:
        if isinstance(dim, int) or dim.value is None:
            return dim
        return ir.SymbolicDim(re.sub(r"\w+", lambda match: names.get(match[0], match[0]), str(dim.value)))

    for value in _values(model.graph):
        if value.shape is not None:
            value.shape = ir.Shape([renamed(dim) for dim in value.shape])
    return True


def _symbol(dim: int | ir.SymbolicDim) -> str | None:
    """Name of a free dimension."""
    return None if isinstance(dim, int) or dim.value is None else str(dim.value)


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *(value for node in graph for value in node.outputs)]


def _measured_dim(value: ir.Value | None) -> str | None:
    """The free dimension that a value measures, when it is a `Shape` of exactly one dimension."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "Shape" or node.inputs[0] is None or node.inputs[0].shape is None:
        return None
    measured = node.inputs[0].shape[_int(node, "start", 0) : _int(node, "end", None)]
    return _symbol(measured[0]) if len(measured) == 1 else None


def _int(node: ir.Node, name: str, default: int | None) -> int | None:
    return int(node.attributes[name].value) if name in node.attributes else default


@in_place
def measure_shapes_on_input(model: ir.Model) -> bool:
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
    return bool(kept)


@in_place
def fold_reshapes(model: ir.Model) -> bool:
    """Make the shape of a `Reshape` constant where its free dimensions stay in place (0 copies one)."""
    reshapes = [(node, _constant_shape(node)) for node in model.graph if node.op_type == "Reshape"]
    found = [(node, shape) for node, shape in reshapes if shape is not None]
    for node, shape in found:
        node.replace_input_with(1, _constant(model.graph, np.array(shape, np.int64), f"{node.name}_shape"))
        node.attributes.pop("allowzero", None)
    return bool(found)


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
    """One entry of a Reshape's target: a number, 0 for the input's own dimension, -1 for another free one."""
    number = _numbers(value)
    if number is not None:
        return int(number.reshape(-1)[0]) if number.size == 1 and number.any() else None
    dim = _measured_dim(value)
    if dim is None:
        return None
    return 0 if position < len(shape) and _symbol(shape[position]) == dim else -1


@in_place
def multiply_by_constants(model: ir.Model) -> bool:
    """Write a division by a constant number as a multiplication, as most models scale attention scores."""
    divisions = [(node, _numbers(node.inputs[1])) for node in model.graph if node.op_type == "Div"]
    found = [(node, divisor) for node, divisor in divisions if _is_one_float(divisor)]
    for node, divisor in found:
        assert divisor is not None
        reciprocal = (1.0 / divisor).astype(divisor.dtype)
        node.replace_input_with(1, _constant(model.graph, reciprocal, f"{node.name}_reciprocal"))
        node.op_type = "Mul"
    return bool(found)


def _is_one_float(array: Array | None) -> bool:
    return array is not None and array.size == 1 and array.dtype.kind == "f"


@in_place
def unfold_gemm(model: ir.Model) -> bool:
    """Write a `Gemm` with constant weight as `MatMul` (weight `[in, out]`) and `Add` of its bias, like other layers."""
    found = [node for node in model.graph if node.op_type == "Gemm" and _is_plain_gemm(node)]
    for node in found:
        total = _insert_before(node, "MatMul", [node.inputs[0], _in_by_out(model.graph, node)])
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            total = _insert_before(node, "Add", [total, node.inputs[2]])
        public, node.outputs[0].name = node.outputs[0].name, f"{node.name}_replaced"
        total.name = public
        node.outputs[0].replace_all_uses_with(total, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
    return bool(found)


def _in_by_out(graph: ir.Graph, node: ir.Node) -> ir.Value:
    """The weight of a Gemm as a new initializer `[in, out]`."""
    is_turned, name = bool(_int(node, "transB", 0)), f"{node.name}_weight"
    lazy = streamed(node.inputs[1])
    if lazy is not None:
        return _initializer(graph, lazy.transposed() if is_turned else lazy, name)
    weight = _numbers(node.inputs[1])
    assert weight is not None
    return _constant(graph, np.ascontiguousarray(weight.T if is_turned else weight), name)


def _is_plain_gemm(node: ir.Node) -> bool:
    plain = all(
        name not in node.attributes or node.attributes[name].value == 1.0 for name in ("alpha", "beta")
    )
    weight = node.inputs[1]
    constant = weight is not None and weight.const_value is not None
    return plain and constant and not _int(node, "transA", 0)


def _numbers(value: ir.Value | None) -> Array | None:
    """The constant a value holds, if it does."""
    tensor = value.const_value if value is not None else None
    return None if tensor is None else tensor.numpy()


def _insert_before(
    node: ir.Node,
    op_type: str,
    inputs: list[ir.Value | None],
    like: ir.Value | None = None,
    **attributes: Any,
) -> ir.Value:
    """A new node in front of `node`, from the same module; its output has the shape and type of `like`."""
    import onnx_ir as ir

    added = ir.node(op_type, inputs, attributes, metadata_props=dict(node.metadata_props))
    model_value = like or node.outputs[0]
    output = added.outputs[0]
    output.shape, output.type = model_value.shape, model_value.type
    output.name = f"{node.name}_{op_type.lower()}"
    assert node.graph is not None
    node.graph.insert_before(node, added)
    return output


@in_place
def share_tied_heads(model: ir.Model) -> bool:
    """Let a head whose weight is the transposed embedding table read that table through a `Transpose`.

    A masked language model ties the two, and tracing unties them: the table would be stored twice.
    """
    is_changed = False
    tables = [
        node.inputs[0] for node in model.graph if node.op_type == "Gather" and node.inputs[0] is not None
    ]
    for node in list(model.graph):
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        table = next((table for table in tables if _is_transposed(weight, table)), None)
        if table is not None and weight is not None:
            shared = _insert_before(node, "Transpose", [table], like=weight, perm=[1, 0])
            node.replace_input_with(1, shared)
            del model.graph.initializers[str(weight.name)]
            is_changed = True
    return is_changed


def _is_transposed(weight: ir.Value | None, table: ir.Value) -> bool:
    lazy, lazy_table = streamed(weight), streamed(table)
    if lazy is not None or lazy_table is not None:
        return lazy is not None and lazy_table is not None and lazy.origin == lazy_table.transposed().origin
    a, b = _numbers(weight), _numbers(table)
    if a is None or b is None or a.ndim != 2 or a.shape != b.shape[::-1]:
        return False
    return bool(np.array_equal(a, b.T))


def _constant(graph: ir.Graph, array: Array, name: str) -> ir.Value:
    import onnx_ir as ir

    return _initializer(graph, ir.tensor(array, name=name), name)


def _initializer(graph: ir.Graph, tensor: ir.TensorProtocol, name: str) -> ir.Value:
    import onnx_ir as ir

    tensor.name = name
    shape = ir.Shape(tensor.shape.numpy())
    value = ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


@in_place
def share_constants(model: ir.Model) -> bool:
    """One initializer for equal constants; a weight that a model uses in several places is stored once.

    The tensors are turned into numpy arrays over the same memory, so that nothing downstream needs torch. Streamed
    ones are equal when they come from the same place.
    """
    kept: dict[Any, ir.Value] = {}
    for value in list(model.graph.initializers.values()):
        if value.const_value is None:
            continue
        lazy = streamed(value)
        key = _digest_of(value) if lazy is None else lazy.origin
        first = kept.setdefault(key, value)
        if first is not value:
            value.replace_all_uses_with(first)
            del model.graph.initializers[str(value.name)]
    return True


def _digest_of(value: ir.Value) -> tuple[Any, ...]:
    """What tells a constant from others; its tensor becomes a numpy array on the way."""
    import onnx_ir as ir

    assert value.const_value is not None
    array = np.ascontiguousarray(value.const_value.numpy()).reshape(value.const_value.shape.numpy())
    value.const_value = ir.tensor(array, name=value.name)
    value.shape, value.dtype = ir.Shape(array.shape), value.const_value.dtype
    return array.dtype.str, array.shape, hashlib.sha256(array.data).digest()


@in_place
def strip_metadata(model: ir.Model) -> bool:
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
    return True
