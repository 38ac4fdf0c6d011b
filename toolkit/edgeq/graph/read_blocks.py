"""Block-quantized weights read back from an ONNX file as the float matrices they stand for."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeq.graph.block_weight import BlockWeight
from edgeq.graph.lazy_weights import LazyWeights
from edgeq.types import Array, FloatArray

if TYPE_CHECKING:
    import onnx

DOMAIN = "com.microsoft"
OPERATORS = ("MatMulNBits", "GatherBlockQuantized")
ARITHMETIC = {"Add": np.add, "Mul": np.multiply}


def read_block_weights(path: Path) -> LazyWeights:
    """Weights `[in, out]` (tables `[columns, rows]`) by node name, in the order of the layer's own inputs.

    Offsets of blocks are added and AWQ's input factors multiplied back in.
    """
    import onnx

    graph = _Graph(onnx.load(str(path)).graph)
    return LazyWeights(
        {
            node.name: partial(graph.weight, node)
            for node in graph.proto.node
            if node.domain == DOMAIN and node.op_type in OPERATORS
        }
    )


class _Graph:
    def __init__(self, proto: onnx.GraphProto) -> None:
        self.proto = proto
        self.tensors = {tensor.name: tensor for tensor in proto.initializer}
        self.producers = {name: node for node in proto.node for name in node.output}
        self.nodes = {node.name: node for node in proto.node}

    def weight(self, node: onnx.NodeProto) -> FloatArray:
        """What a node's codes stand for."""
        attributes = {item.name: int(item.i) for item in node.attribute}
        gather = node.op_type == "GatherBlockQuantized"
        data = self.constant(node.input[0 if gather else 1])
        scales = self.constant(node.input[2])
        zeros = self.constant(node.input[3]) if len(node.input) > 3 and node.input[3] else None
        bits, block_size = attributes["bits"], attributes["block_size"]
        columns = attributes.get("K", int(np.prod(data.shape[1:])) * 8 // bits)
        lift = self.nodes.get(f"{node.name}_offsets")
        stored = BlockWeight(
            _blocked(data, scales, bits, block_size),
            scales,
            zeros,
            bits,
            block_size,
            columns,
            offsets=None if lift is None else self.constant(lift.input[0]),
        )
        weight = stored.dequantize()
        return weight if gather else self.for_own_inputs(weight, node.input[0])

    def for_own_inputs(self, weight: FloatArray, value: str) -> FloatArray:
        """The weight for the input as the layer had it, before it was divided and reordered for the codes."""
        order = self.input_order(value)
        if order is not None:
            weight, value = weight[np.argsort(order)], self.producers[value].input[0]
        factor = self.input_factor(value)
        return weight if factor is None else np.asarray(weight * factor[:, None], np.float32)

    def constant(self, name: str) -> Array:
        """An initializer, through what this project writes in front of it: a Cast, a Reshape, sums and products."""
        import onnx

        if name in self.tensors:
            return np.asarray(onnx.numpy_helper.to_array(self.tensors[name]))
        producer = self.producers[name]
        values = self.constant(producer.input[0])
        if producer.op_type in ARITHMETIC:
            other = self.constant(producer.input[1])
            return np.asarray(
                ARITHMETIC[producer.op_type](values.astype(np.float32), other.astype(np.float32))
            )
        if producer.op_type == "Reshape":
            return values.reshape(self.constant(producer.input[1]))
        return values

    def input_order(self, value: str) -> Array | None:
        """The order in which the channels of an input are gathered, where they are."""
        producer = self.producers.get(value)
        if producer is None or producer.op_type != "Gather" or not producer.name.endswith("_input_reordered"):
            return None
        return self.constant(producer.input[1])

    def input_factor(self, value: str) -> FloatArray | None:
        """AWQ's division of an input, where there is one."""
        import onnx

        producer = self.producers.get(value)
        if producer is None or producer.op_type != "Mul" or not producer.name.endswith("_input_scaled"):
            return None
        tensor = self.tensors.get(producer.input[1])
        return None if tensor is None else np.asarray(onnx.numpy_helper.to_array(tensor), np.float32)


def _blocked(data: Array, scales: Array, bits: int, block_size: int) -> Array:
    """Codes as `[rows, blocks, bytes]`; rows of tables come without the last block's padding."""
    rows, blocks = scales.shape
    width = block_size * bits // 8
    flat = data.reshape(rows, -1)
    missing = blocks * width - flat.shape[1]
    return np.pad(flat, ((0, 0), (0, missing))).reshape(rows, blocks, width)
