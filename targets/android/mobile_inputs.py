"""NNAPI takes int32 ids and a float32 mask: no Cast from an integer is ever accepted, so none may remain."""

from __future__ import annotations

import onnx_ir as ir

from edgeq.graph.edit import Editor
from edgeq.types import Role, TensorSpec


def retype_inputs(model: ir.Model, inputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """Make ids int32 and the attention mask float32, in place; returns the new input specs."""
    editor = Editor(model)
    by_name = {value.name: value for value in model.graph.inputs}
    specs = []
    for spec in inputs:
        if spec.name not in by_name:
            continue
        value = by_name[spec.name]
        dtype = "float32" if spec.role is Role.ATTENTION_MASK else "int32"
        value.type = ir.TensorType(ir.DataType.FLOAT if dtype == "float32" else ir.DataType.INT32)
        _bypass_casts(editor, value)
        shape = tuple(int(dim) for dim in value.shape or ())  # type: ignore[arg-type]
        specs.append(TensorSpec(spec.name, dtype, shape, spec.role))
    editor.finish()
    return tuple(specs)


def _bypass_casts(editor: Editor, value: ir.Value) -> None:
    for node in list(value.consumers()):
        if node.op_type == "Cast" and node.attributes["to"].as_int() == value.dtype:
            editor.replace(node.outputs[0], value)
