"""The operator set and the format version that a file declares."""

from __future__ import annotations

import onnx_ir as ir

from edgeq.graph.passes.in_place import in_place


@in_place
def declare_versions(model: ir.Model, opset: int, ir_version: int) -> bool:
    """Say which versions a graph of operators that an older runtime knows is written in."""
    is_changed = (model.opset_imports[""], model.ir_version) != (opset, ir_version)
    model.opset_imports[""] = opset
    model.ir_version = ir_version
    return is_changed
