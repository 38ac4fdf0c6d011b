"""Operators NNAPI lacks, written with those it has. One function per operator, one table.

The forms avoid what ONNX Runtime's level-1 optimizer would fuse back (Pow in a normalization, Erf in a GELU).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from edgeq.errors import UnsupportedError
from edgeq.graph.edit import Editor, attribute, constant_of, static_shape
from edgeq.graph.passes.in_place import in_place

Rewrite = Callable[[Editor, ir.Node], "ir.Value | None"]
"""Returns the value that replaces the node's output, or None to leave the node alone."""


@in_place
def rewrite_operators(model: ir.Model) -> bool:
    """Apply the table to every node."""
    editor = Editor(model)
    is_changed = False
    for node in list(model.graph):
        rewrite = REWRITES.get(node.op_type)
        if rewrite is None or node.domain:
            continue
        is_changed = True
        replacement = rewrite(editor, node)
        if replacement is not None:
            editor.replace(node.outputs[0], replacement)
    editor.finish()
    return is_changed


class _Writer:
    """Short-hand: operators named after the node they replace."""

    def __init__(self, editor: Editor, node: ir.Node) -> None:
        self.editor, self.node = editor, node

    def __call__(
        self,
        op_type: str,
        *inputs: ir.Value | float,
        part: str,
        shape: ir.Shape | None = None,
        **attributes: object,
    ) -> ir.Value:
        values: list[ir.Value | None] = [
            value if isinstance(value, ir.Value) else self.number(value, f"{part}.{index}")
            for index, value in enumerate(inputs)
        ]
        first = next(value for value in values if value is not None and value.const_value is None)
        return self.editor.op(
            op_type,
            values,
            f"{self.node.name}.{part}",
            before=self.node,
            attributes=attributes,
            shape=shape or first.shape,
        )

    def number(self, value: float, part: str) -> ir.Value:
        return self.editor.constant(np.array([value], np.float32), f"{self.node.name}.{part}")

    def mean(self, value: ir.Value, axes: list[int], part: str, *, keepdims: bool = True) -> ir.Value:
        """ReduceMean in its opset-13 form, with `axes` as an attribute."""
        dims = static_shape(value)
        axes = sorted(axis % len(dims) for axis in axes)
        kept = [1 if axis in axes else dim for axis, dim in enumerate(dims)]
        shape = kept if keepdims else [dim for axis, dim in enumerate(dims) if axis not in axes]
        return self("ReduceMean", value, part=part, shape=ir.Shape(shape), axes=axes, keepdims=int(keepdims))


def _layer_normalization(editor: Editor, node: ir.Node) -> ir.Value:
    x, gamma = node.inputs[0], node.inputs[1]
    beta = node.inputs[2] if len(node.inputs) > 2 else None
    assert x is not None and gamma is not None and x.shape is not None
    axis = attribute(node, "axis", -1)
    if axis not in (-1, len(x.shape) - 1):
        raise UnsupportedError(
            f"`{node.name}`: LayerNormalization over axis {axis} has no NNAPI form here; only the last axis has"
        )
    write = _Writer(editor, node)
    centered = write("Sub", x, write.mean(x, [-1], "mean"), part="centered")
    variance = write.mean(write("Mul", centered, centered, part="square"), [-1], "variance")
    deviation = write(
        "Sqrt", write("Add", variance, attribute(node, "epsilon", 1e-5), part="epsilon"), part="deviation"
    )
    scaled = write("Mul", write("Div", centered, deviation, part="normal"), gamma, part="scaled")
    return scaled if beta is None or beta.const_value is None else write("Add", scaled, beta, part="shifted")


def _gelu(editor: Editor, node: ir.Node) -> ir.Value:
    """Hendrycks and Gimpel's tanh form, with h = x / 2 so that every factor is used once."""
    x = node.inputs[0]
    assert x is not None
    write = _Writer(editor, node)
    k, c = float(np.sqrt(2 / np.pi)), 0.044715
    half = write("Mul", x, 0.5, part="half")
    square = write("Mul", half, half, part="square")
    inner = write("Add", write("Mul", square, 8 * k * c, part="cubic"), 2 * k, part="slope")
    tanh = write("Tanh", write("Mul", half, inner, part="inner"), part="tanh")
    return write("Mul", half, write("Add", tanh, 1.0, part="gate"), part="product")


def _reduce_axes(node: ir.Node) -> list[int]:
    axes = constant_of(node.inputs[1]) if len(node.inputs) > 1 else attribute(node, "axes", None)
    x = node.inputs[0]
    assert x is not None
    rank = len(static_shape(x))
    return list(range(rank)) if axes is None else [int(axis) for axis in np.atleast_1d(axes)]


def _reduced(node: ir.Node) -> tuple[ir.Value, list[int], bool, float]:
    x = node.inputs[0]
    assert x is not None and x.shape is not None
    axes = _reduce_axes(node)
    count = float(math.prod(static_shape(x)[axis] for axis in axes))
    return x, axes, bool(attribute(node, "keepdims", 1)), count


def _reduce_mean(editor: Editor, node: ir.Node) -> ir.Value:
    x, axes, keepdims, _ = _reduced(node)
    return _Writer(editor, node).mean(x, axes, "mean", keepdims=keepdims)


def _reduce_sum(editor: Editor, node: ir.Node) -> ir.Value:
    x, axes, keepdims, count = _reduced(node)
    write = _Writer(editor, node)
    return write("Mul", write.mean(x, axes, "mean", keepdims=keepdims), count, part="sum")


def _reduce_l2(editor: Editor, node: ir.Node) -> ir.Value:
    x, axes, keepdims, count = _reduced(node)
    write = _Writer(editor, node)
    mean = write.mean(write("Mul", x, x, part="square"), axes, "mean", keepdims=keepdims)
    return write("Sqrt", write("Mul", mean, count, part="sum"), part="norm")


def _clip(editor: Editor, node: ir.Node) -> ir.Value | None:
    """Max and Min: NNAPI's Clip exists only for [0, 6] and [-1, 1]."""
    bounds = [constant_of(value) for value in (*node.inputs[1:], None, None)][:2]
    result = node.inputs[0]
    assert result is not None
    write = _Writer(editor, node)
    for op_type, bound in zip(("Max", "Min"), bounds, strict=True):
        if bound is not None and np.isfinite(bound) and abs(float(bound)) < 1e38:
            result = write(op_type, result, float(bound), part=op_type.lower())
    return result


def _expand(editor: Editor, node: ir.Node) -> ir.Value:
    """Binary operators broadcast by themselves; anything else gets a Mul by ones."""
    x, output = node.inputs[0], node.outputs[0]
    assert x is not None
    if not output.is_graph_output() and all(_broadcasts(user, output) for user in output.consumers()):
        return x
    ones = editor.constant(np.ones(static_shape(output), np.float32), f"{node.name}.ones")
    return _Writer(editor, node)("Mul", x, ones, part="product", shape=output.shape)


def _broadcasts(user: ir.Node, expanded: ir.Value) -> bool:
    others = [value for value in user.inputs if value is not expanded]
    return (
        user.op_type in ("Add", "Sub", "Mul", "Div")
        and len(others) == 1
        and others[0] is not None
        and others[0].shape == expanded.shape
    )


def _as_reshape(editor: Editor, node: ir.Node) -> ir.Value:
    """Squeeze, Unsqueeze and Flatten: their QDQ groups are refused, Reshape's is not."""
    output = node.outputs[0]
    target = static_shape(output)
    shape = editor.constant(np.array(target, np.int64), f"{node.name}.shape")
    return editor.op(
        "Reshape", [node.inputs[0], shape], f"{node.name}.reshape", before=node, shape=output.shape
    )


def _gather(editor: Editor, node: ir.Node) -> ir.Value | None:
    """A constant scalar index (the first token) is a Slice and a Reshape; scalars change rank inside NNAPI."""
    index = constant_of(node.inputs[1])
    data, output = node.inputs[0], node.outputs[0]
    if index is None or index.ndim != 0 or data is None or data.shape is None or data.const_value is not None:
        return None
    axis = attribute(node, "axis", 0) % len(data.shape)
    start = int(index) % int(data.shape[axis])
    name = node.name
    bounds = [
        editor.constant(np.array([number], np.int64), f"{name}.{part}")
        for part, number in (("start", start), ("end", start + 1), ("axis", axis), ("step", 1))
    ]
    kept = [1 if dim == axis else size for dim, size in enumerate(static_shape(data))]
    row = editor.op("Slice", [data, *bounds], f"{name}.slice", before=node, shape=ir.Shape(kept))
    target = editor.constant(np.array(static_shape(output), np.int64), f"{name}.shape")
    return editor.op("Reshape", [row, target], f"{name}.reshape", before=node, shape=output.shape)


def _softmax(editor: Editor, node: ir.Node) -> None:
    """NNAPI reads a missing axis as 1."""
    node.attributes["axis"] = ir.AttrInt64("axis", attribute(node, "axis", -1))


def _pow(editor: Editor, node: ir.Node) -> ir.Value | None:
    exponent = constant_of(node.inputs[1])
    x = node.inputs[0]
    if exponent is None or x is None or exponent.size != 1:
        return None
    write = _Writer(editor, node)
    if float(exponent.reshape(())) == 2.0:
        return write("Mul", x, x, part="square")
    return write("Sqrt", x, part="root") if float(exponent.reshape(())) == 0.5 else None


def _reciprocal(editor: Editor, node: ir.Node) -> ir.Value:
    x = node.inputs[0]
    assert x is not None
    return _Writer(editor, node)("Div", 1.0, x, part="quotient")


def _split(editor: Editor, node: ir.Node) -> None:
    """The opset-13 form: sizes as an input, no `num_outputs`."""
    if len(node.inputs) < 2 or node.inputs[1] is None:
        axis = attribute(node, "axis", 0)
        sizes = [static_shape(value)[axis] for value in node.outputs]
        node.resize_inputs(2)
        node.replace_input_with(1, editor.constant(np.array(sizes, np.int64), f"{node.name}.sizes"))
    node.attributes.pop("num_outputs", None)


def _matmul(editor: Editor, node: ir.Node) -> None:
    """Operands of one rank: NNAPI does not broadcast, so leading ones are written out."""
    ranks = [len(static_shape(value)) for value in node.inputs if value is not None]
    for index, value in enumerate(node.inputs):
        assert value is not None
        missing = max(ranks) - ranks[index]
        if missing == 0 or ranks[index] < 2:
            continue
        target = [1] * missing + static_shape(value)
        data = constant_of(value)
        if data is not None:
            node.replace_input_with(
                index, editor.constant(data.reshape(target), f"{value.name}.rank{max(ranks)}")
            )
            continue
        shape = editor.constant(np.array(target, np.int64), f"{node.name}.operand{index}.shape")
        raised = editor.op(
            "Reshape", [value, shape], f"{node.name}.operand{index}", before=node, shape=ir.Shape(target)
        )
        node.replace_input_with(index, raised)


REWRITES: Mapping[str, Rewrite] = {
    "Clip": _clip,
    "Expand": _expand,
    "Flatten": _as_reshape,
    "Gather": _gather,
    "Gelu": _gelu,
    "LayerNormalization": _layer_normalization,
    "MatMul": _matmul,
    "Pow": _pow,
    "Reciprocal": _reciprocal,
    "ReduceL2": _reduce_l2,
    "ReduceMean": _reduce_mean,
    "ReduceSum": _reduce_sum,
    "Softmax": _softmax,
    "Split": _split,
    "Squeeze": _as_reshape,
    "Unsqueeze": _as_reshape,
}
