"""A twin of a graph whose float values are off by the last bit where they are about to be rounded.

Two correct runtimes sum and fuse in other orders, so their float values differ in the last bits; in front of a
quantizer some of them then fall on the other side of a rounding boundary, and what follows differs by whole steps. The
twin makes such differences at random, to measure how far apart outputs of one file may lie (pipeline/kernel_noise.py).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgeq.graph.edit import Editor, constant_of
from edgeq.graph.passes.in_place import in_place

QUANTIZERS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulNBits"})
"""Operators that round their first input to integers; MatMulNBits does where its accuracy level says so."""
LINEARS = frozenset({"MatMul", "Gemm"})
LAST_RANDOM_OPSET = 21
"""ONNX Runtime's CPU provider has no RandomUniformLike of later opsets."""
LAST_BIT = 2.0**-23
"""Between neighbours in float32, relative to the smaller one at most."""


def has_quantizers(model: ir.Model) -> bool:
    """Whether a graph rounds values that it computes to integers."""
    return any(True for _ in _places(model, QUANTIZERS))


@in_place
def add_rounding_noise(model: ir.Model, seed: int, last_bits: int = 1) -> bool:
    """Add up to one last bit of a tensor's largest value, uniformly, to each value about to be rounded.

    Graphs without quantizers get it in front of their linear layers.

    Args:
        model: any graph that ONNX Runtime runs.
        seed: of the noise; every run of a session draws anew.
        last_bits: times a last bit.
    """
    editor = Editor(model)
    places = list(_places(model, QUANTIZERS)) or list(_places(model, LINEARS))
    noisy: dict[ir.Value, ir.Value] = {}
    for index, (node, value) in enumerate(places):
        if value not in noisy:
            noisy[value] = _add_noise(editor, node, value, seed * len(places) + index, last_bits * LAST_BIT)
        node.replace_input_with(0, noisy[value])
    editor.finish()
    return bool(places)


def _places(model: ir.Model, operators: frozenset[str]) -> Iterator[tuple[ir.Node, ir.Value]]:
    for node in list(model.graph):
        value = node.inputs[0] if node.op_type in operators else None
        if value is not None and constant_of(value) is None:
            yield node, value


def _add_noise(editor: Editor, node: ir.Node, value: ir.Value, seed: int, share: float) -> ir.Value:
    name = f"{value.name}.noise"
    spread = editor.op("Abs", [value], f"{name}.abs", before=node)
    # All axes, reduced to a scalar: the attribute means the same in every opset.
    largest = editor.op("ReduceMax", [spread], f"{name}.max", before=node, attributes={"keepdims": 0})
    uniform = _uniform(editor, node, value, largest, seed, share)
    noise = editor.op("Mul", [uniform, largest], name, before=node)
    return editor.op("Add", [value, noise], f"{name}.added", before=node, shape=value.shape)


def _uniform(
    editor: Editor, node: ir.Node, value: ir.Value, largest: ir.Value, seed: int, share: float
) -> ir.Value:
    """Numbers between plus and minus a share, of the shape of a value."""
    name = f"{value.name}.noise.uniform"
    if editor.graph.opset_imports[""] <= LAST_RANDOM_OPSET:
        attributes = {"low": -share, "high": share, "seed": float(seed)}
        return editor.op("RandomUniformLike", [value], name, before=node, attributes=attributes)
    return _scattered(editor, node, value, largest, seed, share, name)


def _scattered(
    editor: Editor, node: ir.Node, value: ir.Value, largest: ir.Value, seed: int, share: float, name: str
) -> ir.Value:
    """The same where ONNX Runtime has no random numbers: digits of a sine far behind the point, from the values.

    Values that differ in their last bit only get unrelated numbers. A tensor of zeros stays one.
    """

    def step(op_type: str, left: ir.Value, right: ir.Value | None, part: str, **attributes: int) -> ir.Value:
        inputs = [left] if right is None else [left, right]
        return editor.op(op_type, inputs, f"{name}.{part}", before=node, attributes=dict(attributes))

    def number(size: float, part: str) -> ir.Value:
        return editor.constant(np.asarray(size, np.float32), f"{name}.{part}.by")

    most = step("Max", largest, number(1e-30, "most"), "most")
    angle = step("Mul", step("Div", value, most, "share"), number(12989.8, "angle"), "angle")
    seeded = step("Add", angle, number(0.618 * seed, "seeded"), "seeded")
    digits = step("Mul", step("Sin", seeded, None, "sine"), number(43758.5453, "digits"), "digits")
    fraction = step("Mod", digits, number(1.0, "fraction"), "fraction", fmod=1)
    return step("Mul", fraction, number(share, "bits"), "bits")
