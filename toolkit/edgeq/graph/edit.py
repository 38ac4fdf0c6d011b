"""Building blocks of passes: constants by name, new operators before a node, chains walked backwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeq.errors import UnsupportedError
from edgeq.graph.streamed_tensor import StreamedTensor
from edgeq.types import Array


class Editor:
    """Adds constants and operators to one graph with readable, unique names.

    Args:
        model: edited in place.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.graph = model.graph
        self._node_names = {node.name for node in self.graph}
        self._names = {value.name for node in self.graph for value in node.outputs}
        self._names |= set(self.graph.initializers) | {value.name for value in self.graph.inputs}

    def unique(self, name: str) -> str:
        """`name`, or `name_1`, `name_2` ... when it is taken."""
        candidate, count = name, 0
        while candidate in self._names:
            count += 1
            candidate = f"{name}_{count}"
        self._names.add(candidate)
        return candidate

    def constant(self, array: Array | float | StreamedTensor, name: str) -> ir.Value:
        """A new initializer."""
        unique = self.unique(name)
        if isinstance(array, StreamedTensor):
            tensor: ir.TensorProtocol = array
            tensor.name = unique
        else:
            data = np.ascontiguousarray(array) if np.ndim(array) else np.asarray(array)
            tensor = ir.tensor(data, name=unique)
        value = ir.Value(
            name=unique,
            shape=ir.Shape(tensor.shape.numpy()),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self.graph.register_initializer(value)
        return value

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        *,
        before: ir.Node | None = None,
        domain: str = "",
        attributes: dict[str, Any] | None = None,
        dtype: ir.DataType | None = None,
        shape: ir.Shape | None = None,
    ) -> ir.Value:
        """Insert a one-output operator before a node (or last); returns its output, named after the operator.

        Raises:
            ValueError: another node has the name; plans refer to nodes by it.
        """
        if name in self._node_names and any(node.name == name for node in self.graph):
            raise ValueError(f"the graph has a node named `{name}` already")
        self._node_names.add(name)
        node = ir.node(op_type, inputs, attributes or {}, domain=domain, num_outputs=1, name=name)
        output = node.outputs[0]
        output.name = self.unique(name)
        output.type = ir.TensorType(dtype or ir.DataType.FLOAT)
        output.shape = shape
        if before is None:
            self.graph.append(node)
        else:
            self.graph.insert_before(before, node)
        return output

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Every use of `old`, graph outputs included, reads `new`; an output keeps its public name."""
        if old.is_graph_output():
            public = old.name
            old.name = self.unique(f"{public}_replaced")
            new.name = public
        old.replace_all_uses_with(new, replace_graph_outputs=True)

    def take_over(self, old: ir.Value, new: ir.Value, reader: ir.Node) -> None:
        """Everyone who read `old`, graph outputs included, reads `new`; only `reader`, which leads to it, does not."""
        places = [index for index, value in enumerate(reader.inputs) if value is old]
        self.replace(old, new)
        for index in places:
            reader.replace_input_with(index, old)

    def finish(self) -> ir.Model:
        """Drop what nothing reads any more and sort; returns the model."""
        remove_unused(self.model)
        self.graph.sort()
        return self.model


def remove_unused(model: ir.Model) -> None:
    """Remove dead nodes and initializers."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    RemoveUnusedNodesPass()(model)


def constant_of(value: ir.Value | None) -> Array | None:
    """The constant behind a value (an initializer or a Constant node), or None."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def constant_shape(value: ir.Value) -> tuple[int, ...]:
    """The shape of a constant."""
    tensor = ir.convenience.get_const_tensor(value)
    assert tensor is not None, f"`{value.name}` is no constant"
    return tuple(tensor.shape.numpy())


def static_shape(value: ir.Value) -> list[int]:
    """The shape of a value whose dimensions are all known.

    Raises:
        UnsupportedError: one is not, as where a file computes a shape from its input.
    """
    dims = [dim for dim in value.shape or () if isinstance(dim, int)]
    if value.shape is None or len(dims) < len(value.shape):
        raise UnsupportedError(
            f"the target needs every shape fixed, and that of `{value.name}` is not: {value.shape}",
            hint="--target cpu leaves shapes free; with the checkpoint that a file was made from, export that",
        )
    return dims


def only_user(value: ir.Value) -> ir.Node | None:
    """The single node that reads a value, or None when several do, or the graph returns it."""
    users = value.consumers()
    return users[0] if len(users) == 1 and len(value.uses()) == 1 and not value.is_graph_output() else None


def bias_input(node: ir.Node) -> tuple[ir.Node, int] | None:
    """Where a MatMul's or Gemm's constant bias `[out]` enters: a node and the index of its input."""
    if node.op_type == "Gemm":
        return (node, 2) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    user = only_user(node.outputs[0])
    if user is None or user.op_type != "Add":
        return None
    for index, value in enumerate(user.inputs):
        data = None if value is node.outputs[0] else constant_of(value)
        if data is not None and data.ndim == 1:
            return user, index
    return None


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """An attribute's value, or the operator's default."""
    attr = node.attributes.get(name)
    return default if attr is None else attr.value
