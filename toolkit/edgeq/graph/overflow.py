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


def find_saturating(model: ir.Model | Path) -> list[SaturatingLayer]:
    """Layers that can saturate, in graph order; subgraphs included.

    Raises:
        ModelError: the file is no ONNX model.
    """
    import onnx_ir as ir

    if not isinstance(model, ir.Model):
        try:
            model = ir.load(model)
        except Exception as error:  # protobuf's and onnx_ir's exceptions share no base class
            raise ModelError(f"`{model}` cannot be read as an ONNX model: {error}") from error
    found = []
    for node in model.graph.all_nodes():
        largest = max((_largest_pair(node, value) for value in _weights(node)), default=0)
        if largest > PAIR_LIMIT:
            found.append(SaturatingLayer(str(node.name), node.op_type, largest))
    return found


def _weights(node: ir.Node) -> Iterator[ir.Value]:
    """The int8 factors of a node that is, or becomes, an integer product."""
    places = INTEGER_OPERATORS.get(node.op_type, ())
    for place in places:
        if place < len(node.inputs) and (value := node.inputs[place]) is not None:
            yield value
    if node.op_type in FLOAT_OPERATORS and len(node.inputs) > 1:
        sides = [_behind_dequantize(value) for value in node.inputs[:2]]
        if sides[0] is not None and sides[1] is not None:
            yield sides[1]


def _behind_dequantize(value: ir.Value | None) -> ir.Value | None:
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != DEQUANTIZE:
        return None
    return producer.inputs[0]


def _largest_pair(node: ir.Node, value: ir.Value) -> int:
    """Of the codes behind a value; 0 where they are uint8, whose kernels are exact."""
    import onnx_ir as ir

    from edgeq.graph.edit import constant_of

    if value.dtype not in (None, ir.DataType.INT8):
        return 0
    codes = constant_of(value)
    if codes is None:
        # int8 codes that are computed at run time can be anything; of an unknown type they are not int8 codes.
        return _UNKNOWN if value.dtype == ir.DataType.INT8 else 0
    if codes.dtype != np.int8:
        return 0
    return max((_pair_of(matrix, node) for matrix in _matrices(codes, node)), default=0)


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
