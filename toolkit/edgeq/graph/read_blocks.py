"""Block-quantized weights read back from an ONNX file as the float matrices they stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def read_block_weights(path: Path, planned: Sequence[str] = ()) -> LazyWeights:
    """Weights `[in, out]` (tables `[columns, rows]`) by node name, in the order of the layer's own inputs.

    Offsets of blocks are added and AWQ's input factors multiplied back in.

    Args:
        path: a `.onnx` file.
        planned: names of layers; those that were fused into one (`fuse_projections`) are taken apart again.
    """
    import onnx

    graph = _Graph(onnx.load(str(path)).graph)
    found: dict[str, Callable[[], FloatArray]] = {}
    for node in graph.proto.node:
        if node.domain == DOMAIN and node.op_type in OPERATORS:
            found |= graph.layers(node, planned)
    return LazyWeights(found)


class _Graph:
    def __init__(self, proto: onnx.GraphProto) -> None:
        self.proto = proto
        self.tensors = {tensor.name: tensor for tensor in proto.initializer}
        self.producers = {name: node for node in proto.node for name in node.output}
        self.nodes = {node.name: node for node in proto.node}

    def layers(self, node: onnx.NodeProto, planned: Sequence[str]) -> dict[str, Callable[[], FloatArray]]:
        """What reads a node's weight, or parts of it, by layer name."""
        stem = _stem(node.name)
        names = [name for name in planned if _stem(name) == stem and name not in self.nodes]
        shares = self.packed_heads(node)
        if not shares or len(names) != len(shares):
            return {node.name: partial(self.weight, node)}
        ends = np.cumsum(shares)
        return {
            name: partial(self.columns, node, (end - share) / ends[-1], end / ends[-1])
            for name, share, end in zip(names, shares, ends, strict=True)
        }

    def packed_heads(self, node: onnx.NodeProto) -> tuple[int, ...]:
        """Heads of query, key and value where attention reads all three out of this product; else nothing."""
        users = [user for user in self.proto.node if node.output[0] in user.input]
        if len(users) == 1 and users[0].op_type == "Add":
            return self.packed_heads(users[0])
        if len(users) != 1 or users[0].op_type != "GroupQueryAttention" or any(users[0].input[1:3]):
            return ()
        heads = {item.name: int(item.i) for item in users[0].attribute}
        return heads["num_heads"], heads["kv_num_heads"], heads["kv_num_heads"]

    def columns(self, node: onnx.NodeProto, start: float, end: float) -> FloatArray:
        """A share of the outputs of a node's weight."""
        weight = self.weight(node)
        first, last = (round(share * weight.shape[1]) for share in (start, end))
        return np.ascontiguousarray(weight[:, first:last])

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


def _stem(name: str) -> str:
    return name.rsplit(".", 1)[0]


def _blocked(data: Array, scales: Array, bits: int, block_size: int) -> Array:
    """Codes as `[rows, blocks, bytes]`; rows of tables come without the last block's padding."""
    rows, blocks = scales.shape
    width = block_size * bits // 8
    flat = data.reshape(rows, -1)
    missing = blocks * width - flat.shape[1]
    return np.pad(flat, ((0, 0), (0, missing))).reshape(rows, blocks, width)
