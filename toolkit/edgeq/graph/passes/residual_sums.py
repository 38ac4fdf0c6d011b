"""Residual sums written as Sum, so that ONNX Runtime keeps its fast LayerNormalization.

Given `LayerNormalization(Add(x, skip))` the CPU provider makes SkipLayerNormalization of it, a scalar kernel several
times slower than the two operators it replaces (`benchmarks/cpu_kernels.py`). Sum computes the same and is not matched.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeq.graph.passes.in_place import in_place

NORMALIZATIONS = frozenset({"LayerNormalization"})


@in_place
def write_residual_sums(model: ir.Model) -> bool:
    """Turn every Add that a LayerNormalization reads into a Sum."""
    is_changed = False
    for node in model.graph:
        if node.op_type in NORMALIZATIONS:
            added = node.inputs[0].producer() if node.inputs[0] is not None else None
            if added is not None and added.op_type == "Add" and added.domain == "":
                added.op_type = "Sum"
                is_changed = True
    return is_changed
