"""A graph of one block-quantized layer, whose activations are left to the kernel to round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir


def block_layer(arrays: Sequence[tuple[str, np.ndarray]], attributes: dict[str, Any]) -> ir.Model:
    """`y = x @ W`: a MatMulNBits named `layer` over `x`, float32 `[rows, K]`.

    Args:
        arrays: names and values of its other inputs: codes, scales, and zero points if there are any.
        attributes: `K`, `N`, `bits`, `block_size`, `accuracy_level`.
    """
    x = ir.Value(name="x", shape=ir.Shape(["rows", attributes["K"]]), type=ir.TensorType(ir.DataType.FLOAT))
    constants = [
        ir.Value(
            name=name,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(ir.tensor(array).dtype),
            const_value=ir.tensor(array, name=name),
        )
        for name, array in arrays
    ]
    node = ir.node("MatMulNBits", [x, *constants], attributes, domain="com.microsoft", name="layer")
    y = node.outputs[0]
    y.name, y.type, y.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape(["rows", attributes["N"]])
    opsets = {"": 20, "com.microsoft": 1}
    return ir.Model(
        ir.Graph([x], [y], nodes=[node], initializers=constants, opset_imports=opsets, name="layer"),
        ir_version=10,
    )
