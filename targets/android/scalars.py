"""Quantization scales that no other constant equals."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeq.graph.passes.in_place import in_place


@in_place
def separate_scalars(model: ir.Model) -> bool:
    """Nudge Q/DQ scales that equal another constant by one unit in the last place.

    ONNX Runtime merges equal scalars, and a scale that is also an operand crashes the NNAPI builder (landmine L6).
    """
    scales: set[ir.Value] = set()
    others: set[bytes] = set()
    is_changed = False
    for node in model.graph:
        is_qdq = node.op_type in ("QuantizeLinear", "DequantizeLinear")
        for index, value in enumerate(node.inputs):
            if value is None or value.const_value is None or value.const_value.dtype != ir.DataType.FLOAT:
                continue
            if is_qdq and index == 1:
                scales.add(value)
            elif value.const_value.size == 1:
                others.add(value.const_value.numpy().tobytes())
    for value in scales:
        assert value.const_value is not None
        scale = value.const_value.numpy()
        while scale.size == 1 and scale.tobytes() in others:
            scale = np.nextafter(scale, np.float32(np.inf), dtype=np.float32)
            value.const_value = ir.tensor(scale, name=value.name)
            is_changed = True
    return is_changed
