"""Names for nodes and tensors taken from module paths: plans, reports and recipes refer to them."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeq.graph.passes.in_place import in_place

if TYPE_CHECKING:
    import onnx_ir as ir

SCOPES = "pkg.torch.onnx.name_scopes"
"""Metadata key under which torch leaves the module path of every node."""

PARAMETER_INPUT = {"MatMul": 1, "Gemm": 1, "Conv": 1, "Gather": 0, "LayerNormalization": 1}
"""Operators that are a module by themselves, and the input that is its weight."""

MOST_NAMED_VALUES = 8
"""A constant with more values is named by its reader, and not read here."""


@in_place
def name_nodes(model: ir.Model, prefixes: Sequence[str] = ()) -> bool:
    """Name nodes and their outputs after the module they come from.

    The operator that holds a module's weight has the module's path
    (`encoder.layer.0.attention.self.query`), every other one the path, a slash and its operator
    (`encoder.layer.0.attention.self/softmax`). A second node of the same name, as in layers that share
    weights, gets `@1`. Outputs are named like their node; graph outputs keep theirs.

    Args:
        model: nodes carry the tracer's metadata.
        prefixes: module paths left out of names, longest first.
    """
    taken = {str(value.name) for value in model.graph.inputs} | {
        str(value.name) for value in model.graph.outputs
    }
    path = ""
    for node in model.graph:
        # What a rewrite inserted has no scope of its own: it stands next to the node it serves.
        path = _module_path(node, prefixes) or path
        node.name = _unique(_base_name(node, path), taken)
        for index, value in enumerate(node.outputs):
            if not value.is_graph_output():
                value.name = node.name if index == 0 else _unique(f"{node.name}/{index}", taken)
    return True


def _module_path(node: ir.Node, prefixes: Sequence[str]) -> str | None:
    scopes = node.metadata_props.get(SCOPES)
    if scopes is None:
        return None
    # The last scope is the operation itself.
    path = next((scope for scope in reversed(ast.literal_eval(scopes)[:-1]) if scope), "")
    return strip_prefix(path, prefixes) if not path.startswith("_empty") else None


def strip_prefix(path: str, prefixes: Sequence[str]) -> str:
    """`model.bert.encoder.layer.0` to `encoder.layer.0`."""
    for prefix in prefixes:
        if path == prefix or path.startswith(f"{prefix}."):
            return path[len(prefix) + 1 :]
    return path


def _base_name(node: ir.Node, path: str) -> str:
    index = PARAMETER_INPUT.get(node.op_type)
    if path and index is not None:
        weight = node.inputs[index]
        if weight is not None and (weight.is_initializer() or _is_transposed_parameter(weight)):
            return path
    return f"{path}/{node.op_type.lower()}" if path else node.op_type.lower()


def _is_transposed_parameter(value: ir.Value) -> bool:
    """A tied head multiplies by the transposed embedding table."""
    node = value.producer()
    return (
        node is not None
        and node.op_type == "Transpose"
        and node.inputs[0] is not None
        and node.inputs[0].is_initializer()
    )


def _unique(name: str, taken: set[str]) -> str:
    candidate, count = name, 0
    while candidate in taken:
        count += 1
        candidate = f"{name}@{count}"
    taken.add(candidate)
    return candidate


@in_place
def name_constants(model: ir.Model) -> bool:
    """Name initializers after their first reader and order them by first use.

    The weight of a node named `path` is `path.weight`, its bias likewise; a number or a short list of
    integers is named by its value (`const.float32.-10000.0`), any other constant by its reader
    (`path/add.1`).
    """
    taken = {str(value.name) for node in model.graph for value in node.outputs}
    taken |= {str(value.name) for value in [*model.graph.inputs, *model.graph.outputs]}
    ordered: dict[int, tuple[ir.Value, str]] = {}
    for node in model.graph:
        for index, value in enumerate(node.inputs):
            if value is not None and value.is_initializer() and id(value) not in ordered:
                ordered[id(value)] = (value, _unique(_constant_name(node, index, value), taken))
    for value, _ in ordered.values():
        del model.graph.initializers[str(value.name)]
    for value, name in ordered.values():
        value.name = name
        if value.const_value is not None:
            value.const_value.name = name
        model.graph.register_initializer(value)
    return True


def _constant_name(node: ir.Node, index: int, value: ir.Value) -> str:
    name = str(node.name)
    if PARAMETER_INPUT.get(node.op_type) == index and "/" not in name:
        return f"{name.split('@')[0]}.weight"
    if node.op_type in ("LayerNormalization", "Conv", "Gemm") and index == 2:
        return f"{name.split('@')[0]}.bias"
    tensor = value.const_value
    array = tensor.numpy() if tensor is not None and tensor.size <= MOST_NAMED_VALUES else None
    if array is not None and (array.size == 1 or array.dtype.kind == "i"):
        return f"const.{array.dtype}.{'_'.join(str(item) for item in array.reshape(-1).tolist())}"
    if node.op_type == "Add" and name.endswith("/add"):
        return f"{name.removesuffix('/add')}.bias"
    return f"{name}.{index}"
