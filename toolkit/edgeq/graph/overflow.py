"""Which layers of an ONNX graph have integer sums that can saturate on x86-64 processors without VNNI.

Any graph, ours or not: layers written as integer kernels, and QDQ layers, which ONNX Runtime turns into such kernels
from `ORT_ENABLE_EXTENDED` upwards, whatever moves the weight's codes or its values on the way to the product.
Activations are taken as able to reach every code; what counts is the weight (`edgeq.saturation`). int8 activations,
ConvInteger and depthwise convolutions are left out: ONNX Runtime has exact kernels for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.errors import ModelError
from edgeq.onnx_runtime import DEFAULT_LEVEL, LEVELS, OptimizationLevel
from edgeq.saturation import PAIR_LIMIT, pair_sums
from edgeq.types import Array

if TYPE_CHECKING:
    import onnx_ir as ir

INTEGER_OPERATORS: Mapping[str, tuple[int, ...]] = {
    "MatMulInteger": (1,),
    "MatMulIntegerToFloat": (1,),
    "DynamicQuantizeMatMul": (1,),
    "QLinearMatMul": (3,),
    "QGemm": (3,),
    "QLinearConv": (3,),
    "QAttention": (1,),
    "DynamicQuantizeLSTM": (1, 2),
}
"""Where the int8 weights of integer operators are among their inputs."""
FLOAT_OPERATORS = frozenset({"MatMul", "Gemm", "Conv"})
"""What a QDQ layer is written as: both inputs behind a DequantizeLinear, the weight second."""
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
MOVES = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten"})
"""Operators that move values and change none."""
_UNKNOWN = 2 * 128


@dataclass(frozen=True, slots=True)
class SaturatingLayer:
    """A layer whose sums can leave 16 bits.

    Attributes:
        node: its name.
        op: its operator.
        largest_pair: largest sum of two neighbouring codes of one sign; more than `saturation.PAIR_LIMIT`.
    """

    node: str
    op: str
    largest_pair: int

    @property
    def is_constant(self) -> bool:
        """Whether its codes are in the file: ONNX Runtime makes sums of others exact by no option."""
        return self.largest_pair < _UNKNOWN

    def to_json(self) -> dict[str, Any]:
        """As `check --json` prints it."""
        return {"node": self.node, "op": self.op, "largest_pair": self.largest_pair}


@dataclass(frozen=True, slots=True, eq=False)
class IntegerLayer:
    """A layer that is, or becomes, a product of integers.

    Attributes:
        node: its name.
        op: its operator.
        activations: name of the tensor of its input codes.
        weights: int8 codes as matrices `[K, N]`; empty where they are computed at run time.
        largest_pair: largest sum of two neighbouring codes of one sign.
    """

    node: str
    op: str
    activations: str
    weights: tuple[Array, ...]
    largest_pair: int


def integer_layers(model: ir.Model | Path, level: OptimizationLevel = DEFAULT_LEVEL) -> list[IntegerLayer]:
    """Layers with int8 weights, in graph order; subgraphs included. uint8 weights are left out: their sums are exact.

    Args:
        model: a graph or a file.
        level: at which it is opened; a QDQ layer stays in float below `ORT_ENABLE_EXTENDED`.

    Raises:
        ModelError: the file is no ONNX model, or its weights are missing.
    """
    import onnx_ir as ir

    fuses = LEVELS.index(level) >= LEVELS.index("ORT_ENABLE_EXTENDED")
    try:
        graph = model if isinstance(model, ir.Model) else ir.load(model)
        return [layer for node in graph.graph.all_nodes() for layer in _layers_of(node, fuses=fuses)]
    except Exception as error:  # protobuf's and onnx_ir's exceptions share no base class
        if isinstance(model, ir.Model):
            raise
        raise ModelError(f"`{model}` cannot be read as an ONNX model: {error}") from error


def find_saturating(
    model: ir.Model | Path, level: OptimizationLevel = DEFAULT_LEVEL
) -> list[SaturatingLayer]:
    """Layers that can saturate, in graph order; subgraphs included.

    Args:
        model: a graph or a file.
        level: at which it is opened.

    Raises:
        ModelError: the file is no ONNX model, or its weights are missing.
    """
    largest: dict[tuple[str, str], int] = {}
    for layer in integer_layers(model, level):
        key = layer.node, layer.op
        largest[key] = max(largest.get(key, 0), layer.largest_pair)
    return [SaturatingLayer(*key, pair) for key, pair in largest.items() if pair > PAIR_LIMIT]


def _layers_of(node: ir.Node, *, fuses: bool) -> Iterator[IntegerLayer]:
    import onnx_ir as ir

    for activations, weight, moves in _products(node, fuses=fuses):
        if activations.dtype == ir.DataType.INT8 or _is_depthwise(node, weight):
            continue
        name = (str(node.name), node.op_type, str(activations.name))
        codes = _constant(weight)
        for move in moves:
            codes = None if codes is None else _moved(move, codes)
        if codes is not None and codes.dtype == np.int8:
            matrices = tuple(_matrices(codes, node))
            yield IntegerLayer(*name, matrices, max((_pair_of(item, node) for item in matrices), default=0))
        elif codes is None and _holds_int8(weight):
            yield IntegerLayer(*name, (), _UNKNOWN)  # computed at run time, they can be anything


def _products(node: ir.Node, *, fuses: bool) -> Iterator[tuple[ir.Value, ir.Value, list[ir.Node]]]:
    """Codes of both factors of a node that is, or becomes, an integer product; and what moves the second before it."""
    for place in INTEGER_OPERATORS.get(node.op_type, ()):
        if place < len(node.inputs) and (value := node.inputs[place]) is not None:
            assert node.inputs[0] is not None
            yield node.inputs[0], value, []
    if fuses and node.op_type in FLOAT_OPERATORS and len(node.inputs) > 1:
        left, right = (_behind_dequantize(value) for value in node.inputs[:2])
        if left is not None and right is not None:
            yield left[0], *right


def _is_depthwise(node: ir.Node, weight: ir.Value) -> bool:
    """A convolution of one channel by one, which has an exact kernel."""
    from edgeq.graph.edit import attribute

    shape = weight.shape
    return "Conv" in node.op_type and attribute(node, "group", 1) > 1 and shape is not None and shape[1] == 1


def _behind_dequantize(value: ir.Value | None) -> tuple[ir.Value, list[ir.Node]] | None:
    """The codes that a float value is made of, and what moves it afterwards, in order."""
    moves: list[ir.Node] = []
    producer = None if value is None else value.producer()
    while producer is not None and producer.op_type in MOVES:
        moves.insert(0, producer)
        producer = None if producer.inputs[0] is None else producer.inputs[0].producer()
    if producer is None or producer.op_type != DEQUANTIZE or producer.inputs[0] is None:
        return None
    return producer.inputs[0], moves


def _holds_int8(value: ir.Value) -> bool:
    """Whether a value that is computed holds int8 codes, as far as the graph says."""
    import onnx_ir as ir

    from edgeq.graph.edit import constant_of

    producer = value.producer()
    while producer is not None and producer.op_type in MOVES and producer.inputs[0] is not None:
        value, producer = producer.inputs[0], producer.inputs[0].producer()
    if value.dtype is not None or producer is None or producer.op_type != QUANTIZE:
        return value.dtype == ir.DataType.INT8
    zero_point = constant_of(producer.inputs[2]) if len(producer.inputs) > 2 else None
    return zero_point is not None and zero_point.dtype == np.int8


def _constant(value: ir.Value) -> Array | None:
    """What a value is, where that follows from constants that are moved and quantized."""
    from edgeq.graph.edit import constant_of

    found, producer = constant_of(value), value.producer()
    if found is not None or producer is None or not producer.inputs or producer.inputs[0] is None:
        return found
    if producer.op_type not in (*MOVES, QUANTIZE):
        return None
    before = _constant(producer.inputs[0])
    if before is None:
        return None
    return _quantized(producer, before) if producer.op_type == QUANTIZE else _moved(producer, before)


def _moved(node: ir.Node, values: Array) -> Array | None:
    """Values behind an operator of `MOVES`; None where its shape is not known."""
    from edgeq.graph.edit import attribute, constant_of

    if node.op_type == "Identity":
        return values
    if node.op_type == "Transpose":
        order = node.attributes.get("perm")
        return np.transpose(values, None if order is None else order.as_ints())
    if node.op_type == "Flatten":
        axis = attribute(node, "axis", 1)
        return values.reshape(int(np.prod(values.shape[:axis])), -1)
    wanted = constant_of(node.inputs[1]) if len(node.inputs) > 1 else None
    if wanted is None:
        return values.squeeze() if node.op_type == "Squeeze" else None
    if node.op_type == "Reshape":
        return values.reshape([values.shape[i] if size == 0 else int(size) for i, size in enumerate(wanted)])
    axes = tuple(int(axis) for axis in wanted)
    return values.squeeze(axes) if node.op_type == "Squeeze" else np.expand_dims(values, axes)


def _quantized(node: ir.Node, values: Array) -> Array | None:
    """Codes of constant floats; None for zero points that are not int8, and for blocks."""
    from edgeq.graph.edit import attribute, constant_of

    scale, zero_point = (
        None if len(node.inputs) <= i or node.inputs[i] is None else constant_of(node.inputs[i])
        for i in (1, 2)
    )
    if scale is None or zero_point is None or zero_point.dtype != np.int8 or scale.ndim > 1:
        return None
    shape = [1] * values.ndim
    if scale.ndim == 1:
        shape[attribute(node, "axis", 1)] = -1
    codes = np.rint(values / scale.reshape(shape)) + zero_point.astype(np.float32).reshape(shape)
    found: Array = np.clip(codes, -128, 127).astype(np.int8)
    return found


def _matrices(codes: Array, node: ir.Node) -> Iterator[Array]:
    """The codes as matrices `[K, N]`."""
    from edgeq.graph.edit import attribute

    if "Conv" in node.op_type:
        yield codes.reshape(len(codes), -1).T
    elif codes.ndim == 2 and attribute(node, "transB", 0):
        yield codes.T
    elif codes.ndim >= 2:
        yield from codes.reshape(-1, *codes.shape[-2:])


def _pair_of(matrix: Array, node: ir.Node) -> int:
    if "Conv" not in node.op_type:
        return int(pair_sums(matrix).max(initial=0.0))
    # Which taps of a kernel are neighbours depends on the layout that ONNX Runtime chooses: any two may be.
    wide = np.sort(matrix.astype(np.int32), axis=0)
    lowest, highest = wide[:2], wide[-2:]
    return int(
        max(
            np.maximum(highest, 0).sum(axis=0).max(initial=0),
            np.maximum(-lowest, 0).sum(axis=0).max(initial=0),
        )
    )
