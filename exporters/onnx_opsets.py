"""ONNX files of newer operator sets, brought back to the canonical one where their operators were there already."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.errors import ModelError
from edgeq.graph.component import CANONICAL_OPSET
from edgeq.graph.passes.in_place import in_place

if TYPE_CHECKING:
    import onnx_ir as ir

ATTENTION = "Attention"
PLAIN_ATTENTION = ("scale", "q_num_heads", "kv_num_heads", "softmax_precision")
"""Attributes of `Attention` that are written out; others (causality, caps) must have their default."""

RE_EXPORT = f"export it again with opset {CANONICAL_OPSET} or older (torch.onnx.export: opset_version=18)"


def opset_refusal(model: ir.Model) -> ModelError | None:
    """Why a file of a newer operator set cannot be lowered to the canonical one; None where it can, or is older.

    An operator can be lowered when the canonical operator set has it with these attributes and inputs; newer
    versions only widened the types. `Attention` is written out.
    """
    opset = model.opset_imports.get("", 0)
    if opset <= CANONICAL_OPSET:
        return None
    strange = sorted({found for node in model.graph.all_nodes() if (found := _newer_than_ours(node))})
    if not strange:
        return None
    return ModelError(
        f"the file uses opset {opset} with what opset {CANONICAL_OPSET} does not have: {', '.join(strange)}",
        hint=RE_EXPORT,
    )


def _newer_than_ours(node: ir.Node) -> str | None:
    import onnx

    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == ATTENTION:
        return _strange_attention(node)
    try:
        schema = onnx.defs.get_schema(node.op_type, max_inclusive_version=CANONICAL_OPSET)
    except onnx.defs.SchemaError:
        return node.op_type
    unknown = sorted(set(node.attributes) - set(schema.attributes))
    if unknown or len(node.inputs) > schema.max_input:
        return f"{node.op_type} with {', '.join(unknown) or f'{len(node.inputs)} inputs'}"
    return None


def _strange_attention(node: ir.Node) -> str | None:
    """What of an `Attention` is more than a product of softmax and values."""
    others = [
        name
        for name, one in node.attributes.items()
        if name not in PLAIN_ATTENTION and one.value not in (0, 0.0)
    ]
    inputs = [index for index, value in enumerate(node.inputs) if index > 3 and value is not None]
    if others or inputs:
        return f"{ATTENTION} with {', '.join(sorted(others)) or 'past keys'}"
    query, key = (node.inputs[index] for index in (0, 1))
    shapes = [value.shape for value in (query, key) if value is not None]
    if any(shape is None or len(shape) != 4 for shape in shapes):
        return f"{ATTENTION} of inputs that are not [batch, heads, sequence, size]"
    if not isinstance(shapes[0][-1] if shapes[0] is not None else None, int):
        return f"{ATTENTION} of a size that the file does not state"
    heads = [shape[1] for shape in shapes if shape is not None]
    if heads[0] != heads[1]:
        return f"{ATTENTION} whose keys have {heads[1]} heads beside {heads[0]}"
    return None


@in_place
def lower_opset(model: ir.Model) -> bool:
    """Bring a newer file to the canonical operator set.

    Raises:
        ModelError: it holds what that set does not have.
    """
    refusal = opset_refusal(model)
    if refusal is not None:
        raise refusal
    for node in list(model.graph):
        if node.op_type == ATTENTION and node.domain == "":
            _write_out(model, node)
    model.opset_imports[""] = CANONICAL_OPSET
    return True


@in_place
def raise_opset(model: ir.Model) -> bool:
    """Bring an older file to the canonical operator set."""
    from onnxscript import version_converter

    kept = _set_aside_softmaxes(model)
    version_converter.convert_version(model, CANONICAL_OPSET, fallback=True)
    if kept:
        for node in model.graph:
            if node.domain == SET_ASIDE:
                node.domain = ""
                node.attributes["axis"] = _last_axis()
        model.opset_imports.pop(SET_ASIDE, None)
    return True


SET_ASIDE = "edgeq.unchanged"
"""Domain in which operators wait that the converter would rewrite without need."""


def _last_axis() -> ir.Attr:
    import onnx_ir as ir

    return ir.AttrInt64("axis", -1)


def _set_aside_softmaxes(model: ir.Model) -> bool:
    """Before opset 13 a softmax was over all axes from one on; over the last one it is what it is today."""
    from onnx_ir.passes.common import ShapeInferencePass

    if model.opset_imports.get("", 0) >= FIRST_SOFTMAX_OF_ONE_AXIS:
        return False
    ShapeInferencePass()(model)
    found = False
    for node in model.graph:
        value = node.inputs[0] if node.op_type == "Softmax" else None
        if value is None:
            continue
        axis = node.attributes["axis"].value if "axis" in node.attributes else 1
        # Scores whose rank is not known have four dimensions in every encoder; the comparison with the file decides.
        rank = SCORES_RANK if value.shape is None else len(value.shape)
        if axis in (-1, rank - 1):
            node.domain = SET_ASIDE
            found = True
    if found:
        model.opset_imports[SET_ASIDE] = 1
    return found


FIRST_SOFTMAX_OF_ONE_AXIS = 13
SCORES_RANK = 4


def _write_out(model: ir.Model, node: ir.Node) -> None:
    """`softmax(query @ key^T * scale + mask) @ value`, as the operator's definition has it."""
    import onnx_ir as ir

    from edgeq.graph.edit import Editor

    editor = Editor(model)
    query, key, value = node.inputs[:3]
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    assert query is not None
    scale = node.attributes["scale"].value if "scale" in node.attributes else 1 / math.sqrt(_size(query))

    def op(name: str, kind: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        made = ir.node(kind, list(inputs), attributes, metadata_props=dict(node.metadata_props))
        made.outputs[0].name = f"{node.outputs[0].name}/{name}"
        made.outputs[0].dtype = ir.DataType.FLOAT
        model.graph.insert_before(node, made)
        return made.outputs[0]

    def number(name: str, value: float) -> ir.Value:
        return editor.constant(np.asarray(value, np.float32), f"{node.outputs[0].name}/{name}")

    scores = op("product", "MatMul", query, op("keys", "Transpose", key, perm=[0, 1, 3, 2]))
    scores = op("scores", "Mul", scores, number("scale", scale))
    if mask is not None and mask.dtype == ir.DataType.BOOL:
        mask = op("bias", "Where", mask, number("kept", 0.0), number("hidden", -math.inf))
    masked = scores if mask is None else op("masked", "Add", scores, mask)
    result = op("context", "MatMul", op("weights", "Softmax", masked, axis=-1), value)
    node.outputs[0].replace_all_uses_with(result, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)


def _size(query: ir.Value) -> int:
    """Numbers per head; `_strange_attention` refused a file that does not state it."""
    size = query.shape[-1] if query.shape is not None else None
    assert isinstance(size, int)
    return size
