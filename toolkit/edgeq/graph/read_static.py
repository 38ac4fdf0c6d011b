"""Static int8 layers read back from an ONNX file as the float matrices they stand for."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeq.graph.lazy_weights import LazyWeights
from edgeq.types import FloatArray

if TYPE_CHECKING:
    import onnx

OPERATOR = "MatMulIntegerToFloat"


def read_static_weights(path: Path) -> LazyWeights:
    """Weights `[in, out]` by node name, of the layers written as `MatMulIntegerToFloat` (symmetric, per channel)."""
    import onnx

    graph = onnx.load(str(path)).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    return LazyWeights(
        {
            node.name: partial(_read, tensors[node.input[1]], tensors[node.input[3]])
            for node in graph.node
            if node.op_type == OPERATOR and node.input[1] in tensors and node.input[3] in tensors
        }
    )


def _read(codes: onnx.TensorProto, scale: onnx.TensorProto) -> FloatArray:
    import onnx

    rounded, steps = (onnx.numpy_helper.to_array(tensor) for tensor in (codes, scale))
    return np.asarray(rounded.astype(np.float32) * steps, np.float32)
