"""What runs a segment: onnxruntime over a part of the graph, or numpy for one node with a large weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from edgeq.errors import ModelError
from edgeq.graph.streamed_tensor import StreamedTensor
from edgeq.onnx_runtime import session_options
from edgeq.quantize.segmented.values import Values
from edgeq.quantize.segmented.weights import Weight
from edgeq.types import Array

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

WeightsOf: TypeAlias = Callable[[str], Weight]
"""The weights of one version of the graph, by initializer."""
Run: TypeAlias = Callable[[Values], Values]


@dataclass(frozen=True, slots=True)
class Feed:
    """A value of the graph that is a weight.

    Attributes:
        initializer: the weight.
        is_turned: the value is the transposed one.
    """

    initializer: str
    is_turned: bool = False

    def of(self, weights: WeightsOf) -> Weight:
        """The weight in a version, in this value's orientation."""
        weight = weights(self.initializer)
        return weight.turned() if self.is_turned else weight


class Segment(Protocol):
    """Some consecutive nodes."""

    def bind(self, weights: WeightsOf) -> Run:
        """With the weights of a version: computes what is wanted of a batch from the values in front of it."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """Rows of a streamed table: only those that are looked up are read."""

    node: ir.Node
    feed: Feed

    def bind(self, weights: WeightsOf) -> Run:
        """With the weights of a version."""
        weight, ids_name, output = self.feed.of(weights), _name(self.node.inputs[1]), _output(self.node)

        def run(values: Values) -> Values:
            unique, inverse = np.unique(values[ids_name], return_inverse=True)
            rows = weight.take(unique.tolist())
            return {output: rows[inverse.reshape(values[ids_name].shape)]}

        return run


@dataclass(frozen=True, slots=True)
class WideProduct:
    """A product with a weight that is not held: some of its columns at a time."""

    node: ir.Node
    feed: Feed

    def bind(self, weights: WeightsOf) -> Run:
        """With the weights of a version."""
        weight, data_name, output = self.feed.of(weights), _name(self.node.inputs[0]), _output(self.node)

        def run(values: Values) -> Values:
            data = values[data_name]
            flat = data.reshape(-1, data.shape[-1])
            product = np.concatenate([flat @ block for block in weight.column_blocks()], axis=1)
            return {output: product.reshape(*data.shape[:-1], -1)}

        return run


def _name(value: ir.Value | None) -> str:
    assert value is not None and value.name is not None
    return value.name


def _output(node: ir.Node) -> str:
    return _name(node.outputs[0])


class OrtSegment:
    """Nodes that onnxruntime runs.

    Args:
        nodes: of the segment.
        wanted: values they make that are returned.
        feeds: values that are weights, and fed.
        opsets: of the graph.
        threads: of onnxruntime; None leaves the choice to it.
        where: for messages.
    """

    def __init__(
        self,
        nodes: Sequence[ir.Node],
        wanted: Sequence[str],
        feeds: Mapping[str, Feed],
        opsets: Mapping[str, int],
        threads: int | None,
        where: str,
    ) -> None:
        self._nodes, self._wanted, self._feeds = nodes, list(wanted), feeds
        self._opsets, self._threads, self._where = opsets, threads, where
        self._session: Any = None
        # onnxruntime does not copy what it is given as constants.
        self._constants: list[Array] = []

    def bind(self, weights: WeightsOf) -> Run:
        """With the weights of a version."""
        arrays = {name: feed.of(weights).values() for name, feed in self._feeds.items()}

        def run(values: Values) -> Values:
            known = {**values, **arrays}
            if not self._wanted:
                return {}
            if self._session is None:
                self._session = self._load(known)
            feeds = {item.name: known[item.name] for item in self._session.get_inputs()}
            try:
                results = self._session.run(self._wanted, feeds)
            except Exception as error:  # onnxruntime's exceptions share no base class
                raise ModelError(f"the model fails on its inputs ({self._where}): {error}") from error
            return dict(zip(self._wanted, results, strict=True))

        return run

    def _load(self, known: Values) -> Any:
        import onnxruntime as ort

        options = session_options(threads=self._threads)
        options.enable_cpu_mem_arena = False
        proto = self._proto(known, options)
        try:
            return ort.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise ModelError(f"onnxruntime does not load {self._where}: {error}") from error

    def _proto(self, known: Values, options: Any) -> bytes:
        """The segment as a model: its inputs are the values in front of it and the weights."""
        import onnx
        import onnx_ir as ir

        read = dict.fromkeys(value for node in self._nodes for value in node.inputs if value is not None)
        computed = {value.name for node in self._nodes for value in node.outputs}
        inputs = [
            onnx.helper.make_tensor_value_info(
                str(value.name), onnx.helper.np_dtype_to_tensor_dtype(known[str(value.name)].dtype), None
            )
            for value in read
            if value.name in known and value.name not in computed
        ]
        given = {item.name for item in inputs}
        constants = [
            self._constant(value, options)
            for value in read
            if value.is_initializer() and value.const_value is not None and value.name not in given
        ]
        outputs = [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in self._wanted]
        graph = onnx.helper.make_graph(
            [ir.to_proto(node) for node in self._nodes], "segment", inputs, outputs, constants
        )
        opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in self._opsets.items()]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
        return bytes(model.SerializeToString())

    def _constant(self, value: ir.Value, options: Any) -> onnx.TensorProto:
        """A constant inside the model; a streamed one beside it, where it is not copied into a protobuf first."""
        import onnx
        import onnx_ir as ir
        import onnxruntime as ort

        tensor = value.const_value
        assert tensor is not None
        if not isinstance(tensor, StreamedTensor):
            proto = ir.to_proto(tensor)
            proto.name = str(value.name)
            return proto
        array = tensor.numpy()
        self._constants.append(array)
        options.add_external_initializers([value.name], [ort.OrtValue.ortvalue_from_numpy(array)])
        proto = onnx.TensorProto(name=value.name, dims=array.shape, data_type=int(tensor.dtype))
        proto.data_location = onnx.TensorProto.EXTERNAL
        proto.external_data.add(key="location", value="weights")
        return proto
