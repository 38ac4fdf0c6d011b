"""A twin of a graph whose float values are off by the last bit where they are about to be rounded.

Two correct runtimes sum and fuse in other orders, so their float values differ in the last bits; in front of a
quantizer some of them then fall on the other side of a rounding boundary, and what follows differs by whole steps. The
twin makes such differences at random, to measure how far apart outputs of one file may lie (pipeline/kernel_noise.py).
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from edgeq.graph.edit import Editor, constant_of

QUANTIZERS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulNBits"})
"""Operators that round their first input to integers; MatMulNBits does where its accuracy level says so."""
LINEARS = frozenset({"MatMul", "Gemm"})
LAST_BIT = 2.0**-23
"""Between neighbours in float32, relative to the smaller one at most."""


def with_rounding_noise(model: ir.Model, seed: int) -> ir.Model:
    """A clone that adds up to one last bit of a tensor's largest value, uniformly, to each value about to be rounded.

    Graphs without quantizers get it in front of their linear layers.

    Args:
        model: any graph that ONNX Runtime runs.
        seed: of the noise; every run of a session draws anew.
    """
    model = model.clone()
    editor = Editor(model)
    places = list(_places(model, QUANTIZERS)) or list(_places(model, LINEARS))
    noisy: dict[ir.Value, ir.Value] = {}
    for index, (node, value) in enumerate(places):
        if value not in noisy:
            noisy[value] = _add_noise(editor, node, value, seed * len(places) + index)
        node.replace_input_with(0, noisy[value])
    return editor.finish()


def _places(model: ir.Model, operators: frozenset[str]) -> Iterator[tuple[ir.Node, ir.Value]]:
    for node in list(model.graph):
        value = node.inputs[0] if node.op_type in operators else None
        if value is not None and constant_of(value) is None:
            yield node, value


def _add_noise(editor: Editor, node: ir.Node, value: ir.Value, seed: int) -> ir.Value:
    name = f"{value.name}.noise"
    spread = editor.op("Abs", [value], f"{name}.abs", before=node)
    # All axes, reduced to a scalar: the attribute means the same in every opset.
    largest = editor.op("ReduceMax", [spread], f"{name}.max", before=node, attributes={"keepdims": 0})
    uniform = editor.op(
        "RandomUniformLike",
        [value],
        f"{name}.uniform",
        before=node,
        attributes={"low": -LAST_BIT, "high": LAST_BIT, "seed": float(seed)},
    )
    noise = editor.op("Mul", [uniform, largest], name, before=node)
    return editor.op("Add", [value, noise], f"{name}.added", before=node, shape=value.shape)
