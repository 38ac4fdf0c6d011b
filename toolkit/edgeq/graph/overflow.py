"""Which layers of an ONNX graph have integer sums that can saturate on x86-64 processors without VNNI.

Any graph, ours or not: layers written as integer kernels, and QDQ layers, which ONNX Runtime turns into such kernels.
Activations are taken as able to reach every code; what counts is the weight (`edgeq.saturation`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.errors import ModelError
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
    "ConvInteger": (1,),
    "QAttention": (1,),
    "DynamicQuantizeLSTM": (1, 2),
}
"""Where the int8 weights of integer operators are among their inputs."""
FLOAT_OPERATORS = frozenset({"MatMul", "Gemm", "Conv"})
"""What a QDQ layer is written as: both inputs behind a DequantizeLinear, the weight second."""
DEQUANTIZE = "DequantizeLinear"
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


def integer_layers(model: ir.Model | Path) -> list[IntegerLayer]:
    """Layers with int8 weights, in graph order; subgraphs included. uint8 weights are left out: their sums are exact.

    Raises:
        ModelError: the file is no ONNX model.
    """
    import onnx_ir as ir

    if not isinstance(model, ir.Model):
        try:
            model = ir.load(model)
        except Exception as error:  # protobuf's and onnx_ir's exceptions share no base class
            raise ModelError(f"`{model}` cannot be read as an ONNX model: {error}") from error
    return [layer for node in model.graph.all_nodes() for layer in _layers_of(node)]


def find_saturating(model: ir.Model | Path) -> list[SaturatingLayer]:
    """Layers that can saturate, in graph order; subgraphs included.

    Raises:
        ModelError: the file is no ONNX model.
    """
    largest: dict[tuple[str, str], int] = {}
    for layer in integer_layers(model):
        key = layer.node, layer.op
        largest[key] = max(largest.get(key, 0), layer.largest_pair)
    return [SaturatingLayer(*key, pair) for key, pair in largest.items() if pair > PAIR_LIMIT]


def _layers_of(node: ir.Node) -> Iterator[IntegerLayer]:
    import onnx_ir as ir

    from edgeq.graph.edit import constant_of

    for activations, value in _products(node):
        name = (str(node.name), node.op_type, str(activations.name))
        codes = constant_of(value)
        if codes is None and value.dtype == ir.DataType.INT8:
            yield IntegerLayer(*name, (), _UNKNOWN)  # computed at run time, they can be anything
        elif codes is not None and codes.dtype == np.int8:
            matrices = tuple(_matrices(codes, node))
            yield IntegerLayer(*name, matrices, max((_pair_of(item, node) for item in matrices), default=0))


def _products(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value]]:
    """The codes of both factors of a node that is, or becomes, an integer product."""
    for place in INTEGER_OPERATORS.get(node.op_type, ()):
        if place < len(node.inputs) and (value := node.inputs[place]) is not None:
            assert node.inputs[0] is not None
            yield node.inputs[0], value
    if node.op_type in FLOAT_OPERATORS and len(node.inputs) > 1:
        sides = [_behind_dequantize(value) for value in node.inputs[:2]]
        if sides[0] is not None and sides[1] is not None:
            yield sides[0], sides[1]


def _behind_dequantize(value: ir.Value | None) -> ir.Value | None:
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != DEQUANTIZE:
        return None
    return producer.inputs[0]


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
