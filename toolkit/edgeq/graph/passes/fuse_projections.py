"""Query, key and value products of one format become one, where attention takes them packed.

Recipes and checkpoints decide about the three separately, so the canonical graph keeps them apart. Where they came out
in the same format, one MatMulNBits reads the input once and starts one kernel instead of three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgeq.graph.edit import Editor, attribute, constant_of, only_user
from edgeq.graph.passes.in_place import in_place
from edgeq.graph.passes.weight_only import DOMAIN, LoweredNode, lowered_nodes, note_lowered
from edgeq.graph.streamed_tensor import StreamedTensor, streamed

if TYPE_CHECKING:
    from edgeq.types import Array

PARTS = 3
FORM = ("K", "bits", "block_size", "accuracy_level")
"""Attributes that have to agree."""


@dataclass(frozen=True, slots=True, eq=False)
class _Projection:
    """A MatMulNBits and the bias added to it, if there is one."""

    product: ir.Node
    bias: Array | None
    output: ir.Value


@in_place
def fuse_projections(model: ir.Model) -> bool:
    """Fuse what feeds each GroupQueryAttention; `lowered_nodes` then says what is in the graph."""
    editor = Editor(model)
    fused: dict[str, str] = {}
    for node in list(model.graph):
        if node.op_type == "GroupQueryAttention" and all(node.inputs[:PARTS]):
            parts = [_projection(value) for value in node.inputs[:PARTS]]
            found = [part for part in parts if part is not None]
            if len(found) == PARTS and _is_one_format(found):
                name = _fuse(editor, node, found)
                fused |= {str(part.product.name): name for part in found}
    nodes: dict[str, LoweredNode] = {}
    for item in lowered_nodes(model):
        name = fused.get(item.name, item.name)
        before = nodes.get(name)
        rows = item.out_features + (before.out_features if before else 0)
        nodes[name] = replace(item, name=name, out_features=rows)
    note_lowered(model, nodes.values())
    editor.finish()
    return bool(fused)


def _projection(value: ir.Value | None) -> _Projection | None:
    """The product that an input of attention is, read by nobody else."""
    if value is None or only_user(value) is None:
        return None
    node = value.producer()
    if node is not None and node.op_type == "Add":
        for product, bias in (node.inputs, reversed(node.inputs)):
            data = constant_of(bias)
            inner = None if product is None else product.producer()
            if data is not None and data.ndim == 1 and inner is not None and inner.op_type == "MatMulNBits":
                return _Projection(inner, data, value) if only_user(inner.outputs[0]) else None
        return None
    return _Projection(node, None, value) if node is not None and node.op_type == "MatMulNBits" else None


def _is_one_format(parts: Sequence[_Projection]) -> bool:
    first = parts[0]
    forms = {tuple(attribute(part.product, name, 0) for name in FORM) for part in parts}
    sources = {part.product.inputs[0] for part in parts}
    zeros = {len(part.product.inputs) > 3 and part.product.inputs[3] is not None for part in parts}
    stored = [_stored_scales(part.product) for part in parts]
    dtypes = {None if item is None else item.dtype for item in stored}
    biases = {part.bias is None for part in parts}
    return len(forms) == len(sources) == len(zeros) == len(dtypes) == len(biases) == 1 and (
        _stored_scales(first.product) is not None
    )


def _stored_scales(product: ir.Node) -> ir.Value | None:
    """The scales as the file has them: float32, or float16 behind a Cast; None for other forms."""
    value = product.inputs[2]
    assert value is not None
    producer = value.producer()
    stored = value if producer is None else producer.inputs[0] if producer.op_type == "Cast" else None
    return stored if stored is not None and stored.is_initializer() else None


def _fuse(editor: Editor, attention: ir.Node, parts: Sequence[_Projection]) -> str:
    first = parts[0].product
    stem = str(first.name).rsplit(".", 1)[0]
    name = editor.unique(f"{stem}.qkv_proj")
    rows = sum(int(attribute(part.product, "N", 0)) for part in parts)
    product = editor.op(
        "MatMulNBits",
        [first.inputs[0], *_constants(editor, attention, [part.product for part in parts], name)],
        name,
        before=attention,
        domain=DOMAIN,
        attributes={"N": rows} | {key: int(attribute(first, key, 0)) for key in FORM},
    )
    biases = [part.bias for part in parts if part.bias is not None]
    if biases:
        bias = editor.constant(np.concatenate(biases), f"{name}.bias")
        product = editor.op("Add", [product, bias], f"{name}_bias", before=attention)
    attention.replace_input_with(0, product)
    for index in range(1, PARTS):
        attention.replace_input_with(index, None)
    return name


def _constants(editor: Editor, before: ir.Node, products: Sequence[ir.Node], name: str) -> list[ir.Value]:
    """Codes, scales and zero points, the rows of one under those of another."""
    codes = editor.constant(_stacked([node.inputs[1] for node in products]), f"{name}_q")
    scales = editor.constant(_stacked([_stored_scales(node) for node in products]), f"{name}_scales")
    if scales.dtype == ir.DataType.FLOAT16:
        to = {"to": int(ir.DataType.FLOAT)}
        scales = editor.op("Cast", [scales], f"{name}_scales_fp32", before=before, attributes=to)
    if len(products[0].inputs) <= 3 or products[0].inputs[3] is None:
        return [codes, scales]
    zeros = _stacked([node.inputs[3] for node in products])
    return [codes, scales, editor.constant(zeros, f"{name}_zero_points")]


def _stacked(values: Sequence[ir.Value | None]) -> Array | StreamedTensor:
    """Constants, the rows of one under those of another; streamed ones unread."""
    tensors = [tensor for value in values if (tensor := streamed(value)) is not None]
    if len(tensors) == len(values):
        return tensors[0].stacked_on(tensors[1:])
    return np.concatenate([array for value in values if (array := constant_of(value)) is not None])
