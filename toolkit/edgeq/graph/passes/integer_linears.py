"""QDQ linear layers as the integer kernel itself: QuantizeLinear, then MatMulIntegerToFloat with the bias inside.

ONNX Runtime fuses `Q -> DQ -> MatMul <- DQ(weight)` into the same kernel when it loads a model, but leaves the bias
behind as an Add over the whole activation, which it then merges into the scalar BiasGelu and SkipLayerNormalization.
Written out, the bias costs nothing (`benchmarks/cpu_kernels.py` measures each step), the saved graph is the graph that
runs, and no fusion has to be hoped for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeq.graph.edit import Editor, attribute, bias_input, constant_of, only_user
from edgeq.graph.passes.in_place import in_place

DOMAIN = "com.microsoft"
MOVES_DATA = frozenset({"Reshape", "Transpose"})
"""Operators that compute nothing: with one scale per tensor, quantizing commutes with them."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """A MatMul between dequantized values.

    Attributes:
        activation: `(codes, scale, zero_point)` behind the input's DequantizeLinear.
        weight: `(codes, scale)` behind the weight's.
        transposed: the weight is `[out, in]`.
    """

    activation: tuple[ir.Value, ir.Value, ir.Value]
    weight: tuple[ir.Value, ir.Value]
    transposed: bool


@in_place
def fuse_integer_linears(model: ir.Model) -> bool:
    """Replace every linear layer in QDQ form by MatMulIntegerToFloat.

    Args:
        model: from `quantize_linears`: inputs per tensor, weights int8 symmetric per output channel.
    """
    editor = Editor(model)
    transposed: dict[str, ir.Value] = {}
    found = [(node, parts) for node in model.graph if (parts := _parts(node)) is not None]
    for node, parts in found:
        _fuse(editor, node, parts, transposed)
    editor.finish()
    for node in list(model.graph):
        if node.op_type == "QuantizeLinear":
            _quantize_before_moving(node)
    model.graph.opset_imports.setdefault(DOMAIN, 1)
    editor.finish()
    return bool(found)


def _parts(node: ir.Node) -> _Parts | None:
    if node.op_type not in ("MatMul", "Gemm") or not _is_plain(node):
        return None
    activation, weight = (_dequantize(value) for value in node.inputs[:2])
    if activation is None or weight is None or constant_of(weight.inputs[0]) is None:
        return None
    codes, scale, zero_point = activation.inputs
    weight_codes, weight_scale = weight.inputs[:2]
    assert codes and scale and zero_point and weight_codes and weight_scale
    return _Parts(
        (codes, scale, zero_point), (weight_codes, weight_scale), bool(attribute(node, "transB", 0))
    )


def _is_plain(node: ir.Node) -> bool:
    factors = (attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0))
    return not attribute(node, "transA", 0) and factors == (1.0, 1.0)


def _dequantize(value: ir.Value | None) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def _fuse(editor: Editor, node: ir.Node, parts: _Parts, transposed: dict[str, ir.Value]) -> None:
    weight, weight_scale = parts.weight
    if parts.transposed:
        weight = _transpose(editor, weight, transposed)
    place = bias_input(node)
    bias = None if place is None else place[0].inputs[place[1]]
    # Inputs: A, B, scales of both, zero points of both (none: the weights are symmetric), bias.
    codes, scale, zero_point = parts.activation
    old = node.outputs[0] if place is None else place[0].outputs[0]
    last = node if place is None else place[0]
    name = node.name
    node.name = f"{name}.qdq"  # the layer keeps its name: plans and reports refer to it
    product = editor.op(
        "MatMulIntegerToFloat",
        [codes, weight, scale, weight_scale, zero_point, None, bias],
        str(name),
        before=last,
        domain=DOMAIN,
        shape=old.shape,
    )
    editor.replace(old, product)


def _transpose(editor: Editor, weight: ir.Value, done: dict[str, ir.Value]) -> ir.Value:
    name = str(weight.name)
    if name not in done:
        data = constant_of(weight)
        assert data is not None
        done[name] = editor.constant(np.ascontiguousarray(data.T), f"{name}.transposed")
    return done[name]


def _quantize_before_moving(quantize: ir.Node) -> None:
    """`Reshape(Transpose(x))` of codes moves a quarter of the bytes that floats take."""
    chain = _moves_before(quantize)
    if not chain:
        return
    source, moved, codes = chain[-1].inputs[0], chain[0].outputs[0], quantize.outputs[0]
    assert source is not None
    for node in chain:
        node.outputs[0].type = codes.type
    codes.replace_all_uses_with(moved)
    quantize.replace_input_with(0, source)
    chain[-1].replace_input_with(0, codes)
    codes.shape = source.shape


def _moves_before(quantize: ir.Node) -> list[ir.Node]:
    """What moves the data that `quantize` reads, last first; ends where somebody else reads it too."""
    chain: list[ir.Node] = []
    value = quantize.inputs[0]
    while value is not None and only_user(value):
        node = value.producer()
        if node is None or node.op_type not in MOVES_DATA:
            break
        chain.append(node)
        value = node.inputs[0]
    return chain
