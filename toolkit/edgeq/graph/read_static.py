"""Static int8 layers read back from an ONNX file as the float matrices they stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeq.types import FloatArray

OPERATOR = "MatMulIntegerToFloat"


def read_static_weights(path: Path) -> dict[str, FloatArray]:
    """Weights `[in, out]` by node name, of the layers written as `MatMulIntegerToFloat` (symmetric, per channel)."""
    import onnx

    graph = onnx.load(str(path)).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type == OPERATOR and node.input[1] in tensors and node.input[3] in tensors:
            codes, scale = (onnx.numpy_helper.to_array(tensors[node.input[index]]) for index in (1, 3))
            found[node.name] = np.asarray(codes.astype(np.float32) * scale, np.float32)
    return found
