"""NNAPI takes int32 ids and a float32 mask: no Cast from an integer is ever accepted, so none may remain."""

from __future__ import annotations

import onnx_ir as ir

from edgeq.graph.edit import Editor
from edgeq.graph.passes.in_place import in_place
from edgeq.types import Role, TensorSpec


@in_place
def retype_inputs(model: ir.Model, inputs: tuple[TensorSpec, ...]) -> bool:
    """Make ids int32 and the attention mask float32.

    Args:
        model: its shapes are fixed.
        inputs: of the canonical graph, for their roles.
    """
    editor = Editor(model)
    roles = {spec.name: spec.role for spec in inputs}
    for value in model.graph.inputs:
        is_mask = roles[str(value.name)] is Role.ATTENTION_MASK
        value.type = ir.TensorType(ir.DataType.FLOAT if is_mask else ir.DataType.INT32)
        _bypass_casts(editor, value)
    editor.finish()
    return bool(roles)


def static_inputs(model: ir.Model, inputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """The inputs as a graph of fixed shapes takes them; those that it dropped are left out."""
    values = {str(value.name): value for value in model.graph.inputs}
    return tuple(_static(spec, values[spec.name]) for spec in inputs if spec.name in values)


def _static(spec: TensorSpec, value: ir.Value) -> TensorSpec:
    dtype = "float32" if value.dtype == ir.DataType.FLOAT else "int32"
    shape = tuple(int(dim) for dim in value.shape or ())  # type: ignore[arg-type]
    return TensorSpec(spec.name, dtype, shape, spec.role)


def _bypass_casts(editor: Editor, value: ir.Value) -> None:
    for node in list(value.consumers()):
        if node.op_type == "Cast" and node.attributes["to"].as_int() == value.dtype:
            editor.replace(node.outputs[0], value)
