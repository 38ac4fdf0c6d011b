"""A thin read-only view of an ONNX graph: nodes, edges, types, shapes and constants, without the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from edgeq.errors import ModelError
from edgeq.types import Array

if TYPE_CHECKING:
    import onnx

DimValue: TypeAlias = int | str | None
"""A dimension: known, named, or neither."""
Shape: TypeAlias = tuple[DimValue, ...]

QDQ_DOMAINS = ("", "com.microsoft")


@dataclass(frozen=True, slots=True)
class Node:
    """One operator; `index` is its place in topological order, "" an input or output left out."""

    index: int
    op_type: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    since_version: int
    attributes: Mapping[str, Any] = field(repr=False)
    captured: tuple[str, ...] = ()
    """Outer values its subgraphs read (If, Loop, Scan): edges like any other input."""

    def has_input(self, index: int) -> bool:
        """Whether input `index` is given."""
        return index < len(self.inputs) and self.inputs[index] != ""

    @property
    def is_dq(self) -> bool:
        """Whether it is a DequantizeLinear, standard or contrib."""
        return self.op_type == "DequantizeLinear" and self.domain in QDQ_DOMAINS

    @property
    def is_q(self) -> bool:
        """Whether it is a QuantizeLinear, standard or contrib."""
        return self.op_type == "QuantizeLinear" and self.domain in QDQ_DOMAINS


class GraphView:
    """The graph an execution provider is asked about.

    Args:
        nodes: in topological order, `nodes[i].index == i`.
        inputs: graph inputs that are no initializers.
        outputs: graph outputs.
        tensors: constant initializers by name (weights stay where they are, `constant` reads on demand).
        dtypes: numpy-style type name by value name (`float32`, `int4`, `bfloat16`).
        shapes: shape by value name.
        opset: version of the standard operator set.
        base_dir: folder of external data.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        *,
        inputs: Sequence[str],
        outputs: Sequence[str],
        tensors: Mapping[str, onnx.TensorProto],
        dtypes: Mapping[str, str],
        shapes: Mapping[str, Shape],
        opset: int,
        base_dir: str = "",
    ) -> None:
        self.nodes = tuple(nodes)
        self.inputs = tuple(inputs)
        self.outputs = frozenset(outputs)
        self.opset = opset
        self._tensors = tensors
        self._dtypes = dtypes
        self._shapes = shapes
        self._base_dir = base_dir
        self._arrays: dict[str, Array | None] = {}
        self.producer: dict[str, Node] = {name: node for node in self.nodes for name in node.outputs if name}
        self._consumers = _consumers(self.nodes)

    def dtype(self, name: str) -> str | None:
        """Element type of a value, None when unknown."""
        return self._dtypes.get(name)

    def shape(self, name: str) -> Shape | None:
        """Shape of a value, None when not even the rank is known."""
        return self._shapes.get(name)

    def rank(self, name: str) -> int | None:
        """Number of dimensions, None when unknown."""
        shape = self.shape(name)
        return None if shape is None else len(shape)

    def static_shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a value when every dimension is a known number."""
        shape = self.shape(name)
        if shape is None:
            return None
        known = tuple(dim for dim in shape if isinstance(dim, int))
        return known if len(known) == len(shape) else None

    def is_constant(self, name: str) -> bool:
        """Whether the value is an initializer that a caller cannot override."""
        return name in self._tensors

    def is_external(self, name: str) -> bool:
        """Whether the value is an initializer stored outside the model file."""
        tensor = self._tensors.get(name)
        return tensor is not None and len(tensor.external_data) > 0

    def constant(self, name: str) -> Array | None:
        """The values of a constant, None when it is none or has no data."""
        if name not in self._arrays:
            self._arrays[name] = self._read(name)
        return self._arrays[name]

    def _read(self, name: str) -> Array | None:
        from onnx import numpy_helper

        if (tensor := self._tensors.get(name)) is None:
            return None
        try:
            array: Array = numpy_helper.to_array(tensor, self._base_dir)
        except Exception as error:
            raise ModelError(
                f"initializer `{name}` cannot be read: {error}", hint="export the model again"
            ) from error
        return array

    def consumers(self, name: str) -> list[tuple[Node, int]]:
        """(node, input index) of every use of a value; index -1 when a subgraph captures it."""
        return self._consumers.get(name, [])

    def input_edges(self, node: Node) -> list[Node]:
        """The node behind each input, once per edge; constants and graph inputs have none."""
        names = (*node.inputs, *node.captured)
        return [self.producer[name] for name in names if name in self.producer]

    def output_edges(self, node: Node) -> list[tuple[Node, int]]:
        """(consumer, its input index) for every use of every output."""
        return [edge for name in node.outputs if name for edge in self.consumers(name)]

    def is_graph_output(self, node: Node) -> bool:
        """Whether any output of the node leaves the graph."""
        return any(name in self.outputs for name in node.outputs)


def _consumers(nodes: Sequence[Node]) -> dict[str, list[tuple[Node, int]]]:
    uses: dict[str, list[tuple[Node, int]]] = {}
    for node in nodes:
        for index, name in enumerate(node.inputs):
            if name:
                uses.setdefault(name, []).append((node, index))
        for name in node.captured:
            uses.setdefault(name, []).append((node, -1))
    return uses
