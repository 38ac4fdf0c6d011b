"""A graph on its way into another process: its structure as bytes, weights by reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from edgeq.graph.streamed_tensor import StreamedTensor, streamed


@dataclass(frozen=True, slots=True, eq=False)
class PackedGraph:
    """A graph that can be pickled.

    Attributes:
        proto: ONNX, streamed initializers as external data that is nowhere.
        tensors: these initializers.
    """

    proto: bytes
    tensors: Mapping[str, StreamedTensor]

    def unpack(self) -> ir.Model:
        """The graph."""
        import onnx

        model: ir.Model = ir.from_proto(onnx.ModelProto.FromString(self.proto))
        for name, tensor in self.tensors.items():
            model.graph.initializers[name].const_value = tensor
        return model


def pack_graph(model: ir.Model) -> PackedGraph:
    """Pack a graph; it is not changed."""
    model = model.clone()
    tensors = {
        name: tensor for name, value in model.graph.initializers.items() if (tensor := streamed(value))
    }
    for name, tensor in tensors.items():
        model.graph.initializers[name].const_value = ir.ExternalTensor(
            "elsewhere", 0, 0, tensor.dtype, shape=tensor.shape, name=name, base_dir=""
        )
    return PackedGraph(ir.to_proto(model).SerializeToString(deterministic=True), tensors)
