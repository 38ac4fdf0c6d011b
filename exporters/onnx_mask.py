"""The attention mask of stock ONNX exports: comparisons, windows and guards, put back as arithmetic on the mask.

What a file adds to its scores, or puts in their place, is not guessed from its operators: that part of the graph is
run, and what it does to a row of tokens is read off its numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.exporters.onnx_signature import ROLES
from edgeq.exporters.text_encoder import MASKED_SCORE
from edgeq.graph.passes.in_place import in_place
from edgeq.onnx_runtime import session_options
from edgeq.types import Array

if TYPE_CHECKING:
    import onnx_ir as ir

MASK = "attention_mask"

MASKED_BELOW = -999.0
"""A score this low says "not this key"; exp(-999) is 0 in float32."""

CAN_BE_INFINITE = 1e30
"""Sums of constants this large leave float32: a row of them is NaN after a softmax."""


@dataclass(frozen=True, slots=True)
class _Operand:
    """Where a mask enters the scores: an addend of an `Add`, or the condition of a `Where`."""

    node: ir.Node
    index: int
    value: ir.Value

    @property
    def is_condition(self) -> bool:
        return self.node.op_type == "Where"


@in_place
def replace_mask(model: ir.Model, tokens: int, rows: int = 1) -> bool:
    """Replace what the mask does to attention scores by `(1 - mask) * -10000`, with the window where there is one.

    Left as it is: a mask that adds more than that (positions, causality), and one that is not `[batch, heads,
    queries, keys]`.

    Args:
        model: with our inputs.
        tokens: longest length of the model, at which windows are looked at.
        rows: of the batch that it can be run with.
    """
    operands = [
        operand for node in model.graph if node.op_type == "Softmax" for operand in _operands(node.inputs[0])
    ]
    if not operands:
        return False
    windows = _windows(model, operands, tokens, rows)
    biases: dict[int | None, ir.Value] = {}
    for operand in operands:
        window = windows.get(id(operand.value), LEAVE)
        if window == LEAVE:
            continue
        if window not in biases:
            biases[window] = _bias(model, window, tokens)
        _put(operand, biases[window])
    return bool(biases)


LEAVE = -1
"""In the place of a window: this mask is not ours to write."""


def _operands(value: ir.Value | None) -> Iterator[_Operand]:
    """What a softmax's scores owe to the mask alone."""
    node = value.producer() if value is not None else None
    if node is None:
        return
    if node.op_type == "Add":
        for index, addend in enumerate(node.inputs):
            if addend is not None and _sources(addend) == {MASK}:
                yield _Operand(node, index, addend)
            else:
                yield from _operands(addend)
    elif (
        node.op_type == "Where"
        and (condition := node.inputs[0]) is not None
        and _sources(condition) == {MASK}
    ) and any(_low_number(branch) for branch in node.inputs[1:]):
        yield _Operand(node, 0, condition)


def _low_number(value: ir.Value | None) -> bool:
    tensor = value.const_value if value is not None else None
    return tensor is not None and tensor.size == 1 and float(tensor.numpy().reshape(-1)[0]) < MASKED_BELOW


def _sources(value: ir.Value) -> set[str]:
    """Names of the graph inputs whose numbers, not only whose shapes, a value is computed from."""
    found: set[str] = set()
    seen: set[int] = set()
    pending: list[ir.Value | None] = [value]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        producer = current.producer()
        if current.is_graph_input():
            found.add(str(current.name))
        elif producer is not None and producer.op_type != "Shape":
            pending.extend(producer.inputs)
    return found


def _windows(model: ir.Model, operands: Sequence[_Operand], tokens: int, rows: int) -> dict[int, int | None]:
    """For every operand: None for a mask of padding alone, its window in tokens, or `LEAVE`."""
    values = list({id(operand.value): operand.value for operand in operands}.values())
    kept = np.ones((rows, tokens), np.int64)
    padded = kept.copy()
    padded[:, -1] = 0
    full, cut = (_run(model, values, mask) for mask in (kept, padded))
    found: dict[int, int | None] = {}
    for operand in operands:
        index = values.index(operand.value)
        found[id(operand.value)] = _window(
            _as_bias(operand, full[index]), _as_bias(operand, cut[index]), tokens
        )
    return found


def _run(model: ir.Model, values: Sequence[ir.Value], mask: Array) -> list[Array]:
    """The values, computed from a mask; other inputs lend their shape."""
    import onnx_ir as ir
    import onnxruntime as ort

    inputs = [value for value in model.graph.inputs if value.name in ROLES]
    graph = ir.convenience.extract(model.graph, inputs, list(values))
    part = ir.Model(graph, ir_version=model.ir_version)
    part.graph.opset_imports.update(model.opset_imports)
    session = ort.InferenceSession(
        ir.to_proto(part).SerializeToString(), session_options(), providers=["CPUExecutionProvider"]
    )
    feeds = {str(value.name): mask if value.name == MASK else np.zeros_like(mask) for value in inputs}
    return [np.asarray(array) for array in session.run([str(value.name) for value in values], feeds)]


def _as_bias(operand: _Operand, array: Array) -> Array:
    """What an operand adds to scores: a condition that is met on the low side is a very low score."""
    if not operand.is_condition:
        return array
    is_low_where_true = _low_number(operand.node.inputs[1])
    return np.where(array.astype(bool) == is_low_where_true, MASKED_SCORE, 0.0)


def _window(full: Array, cut: Array, tokens: int) -> int | None:
    """Read a bias `[batch, heads or 1, queries or 1, keys]` for a row of tokens, and for one whose last is padding."""
    if full.ndim != 4 or full.shape[-1] != tokens or full.shape != cut.shape or np.isnan(full).any():
        return LEAVE
    low, low_cut = full < MASKED_BELOW, cut < MASKED_BELOW
    is_more = np.abs(full[~low]).max(initial=0.0) > 0 or np.abs(cut[~low_cut]).max(initial=0.0) > 0
    hides_padding = low_cut[..., -1].all() and np.array_equal(low[..., :-1], low_cut[..., :-1])
    if is_more or not hides_padding or not np.array_equal(low, np.broadcast_to(low[:1, :1], low.shape)):
        return LEAVE
    if not low.any():
        return None
    if low.shape[2] != tokens:
        return LEAVE
    position = np.arange(tokens)
    distance = np.abs(position[:, None] - position[None, :])
    width = int(distance[~low[0, 0]].max(initial=0))
    return width if np.array_equal(low[0, 0], distance > width) else LEAVE


def _put(operand: _Operand, bias: ir.Value) -> None:
    import onnx_ir as ir

    node = operand.node
    if not operand.is_condition:
        node.replace_input_with(operand.index, bias)
        return
    scores = node.inputs[2] if _low_number(node.inputs[1]) else node.inputs[1]
    added = ir.node("Add", [scores, bias], metadata_props=dict(node.metadata_props))
    added.outputs[0].name = f"{node.outputs[0].name}_masked"
    added.outputs[0].type, added.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
    assert node.graph is not None
    node.graph.insert_before(node, added)
    node.outputs[0].replace_all_uses_with(added.outputs[0], replace_graph_outputs=True)
    node.graph.remove(node, safe=True)


@in_place
def drop_softmax_guards(model: ir.Model) -> bool:
    """Drop `Where(IsNaN(p), 0, p)` behind a softmax whose rows cannot be all -inf.

    Torch guards its attention that way, for masks that hide every key of a query. Beside finite scores and the mask
    of `replace_mask` the guard can never act; where infinite constants are left in the scores it stays.
    """
    is_changed = False
    for node in list(model.graph):
        guarded = _guarded(node)
        if guarded is None or _can_be_infinite(guarded.producer()):
            continue
        node.outputs[0].replace_all_uses_with(guarded, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
        is_changed = True
    return is_changed


def _guarded(node: ir.Node) -> ir.Value | None:
    """The softmax's output that a `Where` replaces where it is not a number."""
    condition = node.inputs[0].producer() if node.op_type == "Where" and node.inputs[0] is not None else None
    value = node.inputs[2] if len(node.inputs) > 2 else None
    producer = value.producer() if value is not None else None
    if condition is None or condition.op_type != "IsNaN" or condition.inputs[0] is not value:
        return None
    return value if producer is not None and producer.op_type == "Softmax" else None


def _can_be_infinite(softmax: ir.Node | None) -> bool:
    """Whether a constant between the scores' product and the softmax could make them infinite."""
    pending = list(softmax.inputs) if softmax is not None else []
    seen: set[int] = set()
    while pending:
        value = pending.pop()
        if value is None or id(value) in seen:
            continue
        seen.add(id(value))
        tensor, producer = value.const_value, value.producer()
        if tensor is not None and tensor.dtype.is_floating_point():
            # Written so that NaN is one of them.
            if not np.abs(tensor.numpy()).max(initial=0.0) < CAN_BE_INFINITE:
                return True
        elif producer is not None and producer.op_type not in ("MatMul", "Gemm", "Einsum"):
            pending.extend(producer.inputs)
    return False


def _bias(model: ir.Model, window: int | None, tokens: int) -> ir.Value:
    padding = _attention_bias(model)
    return padding if window is None else _with_window(model, padding, window, tokens)


class _Head:
    """Operators and constants put at the head of a graph, in a named scope."""

    def __init__(self, model: ir.Model, before: ir.Node) -> None:
        from edgeq.graph.edit import Editor

        self.editor, self.before = Editor(model), before

    def op(self, scope: str, op_type: str, *inputs: ir.Value | None, **attributes: int) -> ir.Value:
        import onnx_ir as ir

        from edgeq.exporters.naming import SCOPES

        node = ir.node(op_type, list(inputs), attributes, metadata_props={SCOPES: repr([scope, op_type])})
        node.outputs[0].name = self.editor.unique(f"{scope}/{op_type.lower()}")
        node.outputs[0].dtype = ir.DataType.INT64 if op_type == "Shape" else ir.DataType.FLOAT
        self.editor.graph.insert_before(self.before, node)
        return node.outputs[0]

    def number(self, name: str, array: Any) -> ir.Value:
        return self.editor.constant(np.asarray(array), name)


def _attention_bias(model: ir.Model) -> ir.Value:
    """`[batch, 1, 1, sequence]`: 0 for tokens, -10000 for padding, made at the head of the graph."""
    import onnx_ir as ir

    head = _Head(model, model.graph.node(0))
    mask = next(value for value in model.graph.inputs if value.name == MASK)
    as_float = head.op(MASK, "Cast", mask, to=int(ir.DataType.FLOAT))
    padding = head.op("attention_bias", "Sub", head.number("attention_bias_one", np.float32(1)), as_float)
    spread = head.op(
        "attention_bias", "Unsqueeze", padding, head.number("attention_bias_axes", np.array([1, 2]))
    )
    return head.op(
        "attention_bias", "Mul", spread, head.number("attention_bias_score", np.float32(MASKED_SCORE))
    )


def _with_window(model: ir.Model, padding: ir.Value, window: int, tokens: int) -> ir.Value:
    """`[batch, 1, sequence, sequence]`: the same, and -10000 and less for keys more than `window` tokens away."""
    after = padding.producer()
    assert after is not None and model.graph.inputs
    following = model.graph.node(list(model.graph).index(after) + 1)
    head = _Head(model, following)
    position = np.arange(tokens, dtype=np.float32)
    length = head.op("local_bias", "Shape", model.graph.inputs[0], start=1, end=2)
    sides = [
        head.op(
            "local_bias",
            "Slice",
            head.number("local_bias_position", position.reshape(shape)),
            head.number("local_bias_start", np.array([0])),
            length,
            head.number("local_bias_axis", np.array([axis])),
        )
        for axis, shape in ((3, (1, 1, 1, tokens)), (2, (1, 1, tokens, 1)))
    ]
    distance = head.op("local_bias", "Abs", head.op("local_bias", "Sub", *sides))
    width = head.number("local_bias_window", np.float32(window))
    beyond = head.op("local_bias", "Relu", head.op("local_bias", "Sub", distance, width))
    low = head.op("local_bias", "Mul", beyond, head.number("local_bias_score", np.float32(MASKED_SCORE)))
    return head.op("local_bias", "Add", low, padding)
