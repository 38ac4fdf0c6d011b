"""Files fixed to one batch and one length, freed: the same operators for any number of rows and fewer tokens.

A fixed export has its sizes in constants: targets of Reshape and Expand, tables of positions, masks. The graph is
walked in two worlds at once, with the file's sizes and with two primes in their place; wherever a constant does not
follow, it is made to. That is a proposal: the comparison with the file, padded to its length and filled to its
batch, decides about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from edgeq.errors import ModelError
from edgeq.graph.component import BATCH, SEQUENCE
from edgeq.graph.passes.in_place import in_place
from edgeq.types import Array

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

ROWS, TOKENS = 1_000_003, 2_000_003
"""Primes that stand for a free batch and a free length: no real dimension has them as a factor."""

LARGEST_TRACKED = 64
"""Integers of a tensor that are followed through shape arithmetic."""

BROADCASTING = (
    "Add", "Sub", "Mul", "Div", "Pow", "Where", "And", "Or", "Xor", "Equal", "Less", "LessOrEqual", "Greater",
    "GreaterOrEqual", "Min", "Max", "MatMul", "GatherElements", "Concat", "Mod",
)  # fmt: skip
"""Operators whose inputs must agree in their dimensions: one made of constants is cut to the others' size."""

Shape: TypeAlias = tuple[int, ...]

RE_EXPORT = "export it again with free axes: dynamic_axes={name: {0: 'batch', 1: 'sequence'}}"


@in_place
def free_dimensions(model: ir.Model, batch: int | None, sequence: int | None) -> bool:
    """Free the batch and the length that a graph was fixed to.

    Args:
        model: inputs are `[batch, sequence]`; constants are initializers.
        batch: rows it is fixed to; None where they are free already.
        sequence: tokens it is fixed to; None where they are free already.

    Raises:
        ModelError: an operator does not follow.
    """
    if batch is None and sequence is None:
        return False
    _Freeing(model, batch, sequence).run()
    return True


class _World:
    """Shapes, and the integers of small tensors, of every value for one size of the inputs."""

    def __init__(self, model: ir.Model, rows: int, tokens: int) -> None:
        self.opsets = dict(model.opset_imports)
        self.shapes: dict[ir.Value, Shape | None] = dict.fromkeys(model.graph.inputs, (rows, tokens))
        self.numbers: dict[ir.Value, Array] = {}
        for value in model.graph.initializers.values():
            assert value.const_value is not None
            self.note_constant(value)

    def note_constant(self, value: ir.Value) -> None:
        tensor = value.const_value
        assert tensor is not None
        self.shapes[value] = tuple(tensor.shape.numpy())
        if tensor.size <= LARGEST_TRACKED and tensor.dtype.is_integer():
            self.numbers[value] = tensor.numpy()

    def infer(self, node: ir.Node) -> None:
        """Shapes of a node's outputs, and their integers where they are made of known ones."""
        self._compute(node)
        found = self._infer_shapes(node)
        for value in node.outputs:
            if value in self.numbers:
                self.shapes[value] = self.numbers[value].shape
            else:
                self.shapes[value] = found.get(str(value.name))
        if node.op_type == "Slice":
            self._cut_to_free(node)

    def _cut_to_free(self, node: ir.Node) -> None:
        """A table cut to the free length has that length: the prime is larger than any table."""
        shape = self.shapes.get(node.outputs[0])
        ends, axes = (
            self.numbers.get(value) if value is not None else None for value in (*node.inputs[2:4], None)[:2]
        )
        if shape is None or ends is None:
            return
        along = range(len(ends)) if axes is None else (int(axis) % len(shape) for axis in axes)
        sizes = {axis: int(end) for end, axis in zip(ends, along, strict=True) if end in (ROWS, TOKENS)}
        self.shapes[node.outputs[0]] = tuple(sizes.get(axis, size) for axis, size in enumerate(shape))

    def _compute(self, node: ir.Node) -> None:
        from onnx.reference import ReferenceEvaluator

        source = node.inputs[0] if node.inputs else None
        if node.op_type == "Shape" and source is not None:
            shape = self.shapes.get(source)
            if shape is not None:
                start, end = (
                    _attribute(node, name, default) for name, default in (("start", 0), ("end", None))
                )
                self.numbers[node.outputs[0]] = np.array(shape[start:end], np.int64)
            return
        inputs = {str(value.name): self.numbers.get(value) for value in node.inputs if value is not None}
        if not inputs or any(array is None for array in inputs.values()) or len(node.outputs) != 1:
            return
        try:
            result = ReferenceEvaluator(_function_of(node, self.opsets[""])).run(None, inputs)[0]
        except Exception:  # an operator the evaluator lacks leaves the number unknown, which is no error
            return
        if np.size(result) <= LARGEST_TRACKED and np.asarray(result).dtype.kind in "iub":
            self.numbers[node.outputs[0]] = np.asarray(result)

    def _infer_shapes(self, node: ir.Node) -> dict[str, Shape | None]:
        import onnx
        import onnx_ir as ir

        types: dict[str, onnx.TypeProto] = {}
        for value in node.inputs:
            shape = self.shapes.get(value) if value is not None else None
            if value is None or value.dtype is None:
                continue
            types[str(value.name)] = onnx.helper.make_tensor_type_proto(int(value.dtype), shape)
        known = {
            str(value.name): onnx.numpy_helper.from_array(self.numbers[value])
            for value in node.inputs
            if value is not None and value in self.numbers
        }
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opsets[node.domain], node.domain)
            found = onnx.shape_inference.infer_node_outputs(schema, ir.to_proto(node), types, known)
        except Exception:  # shapes that do not fit: the caller says so
            return {}
        return {name: _known_shape(kind) for name, kind in found.items()}


def _attribute(node: ir.Node, name: str, default: int | None) -> int | None:
    return int(node.attributes[name].value) if name in node.attributes else default


def _known_shape(kind: onnx.TypeProto) -> Shape | None:
    dims = kind.tensor_type.shape.dim if kind.tensor_type.HasField("shape") else None
    if dims is None or not all(dim.HasField("dim_value") for dim in dims):
        return None
    return tuple(dim.dim_value for dim in dims)


def _function_of(node: ir.Node, opset: int) -> onnx.ModelProto:
    import onnx
    import onnx_ir as ir

    def info(value: ir.Value) -> onnx.ValueInfoProto:
        kind = int(value.dtype) if value.dtype is not None else onnx.TensorProto.INT64
        return onnx.helper.make_tensor_value_info(str(value.name), kind, None)

    graph = onnx.helper.make_graph(
        [ir.to_proto(node)],
        "one",
        [info(value) for value in dict.fromkeys(node.inputs) if value is not None],
        [info(value) for value in node.outputs],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10)


class _Freeing:
    def __init__(self, model: ir.Model, batch: int | None, sequence: int | None) -> None:
        from edgeq.graph.edit import Editor

        self.model, self.editor = model, Editor(model)
        self.rows, self.tokens = batch or ROWS, sequence or TOKENS
        self.old = _World(model, self.rows, self.tokens)
        self.new = _World(model, ROWS, TOKENS)
        self.lengths: dict[int, ir.Value] = {}
        self.first = model.graph.node(0)

    def run(self) -> None:
        import onnx_ir as ir

        for node in list(self.model.graph):
            self.old.infer(node)
            repair = REPAIRS.get(node.op_type)
            if repair is not None:
                repair(self, node)
            self.new.infer(node)
            self._require(node)
        for value in self.model.graph.inputs:
            value.shape = ir.Shape([BATCH, SEQUENCE])
        for node in self.model.graph:
            for output in node.outputs:
                shape = self.new.shapes.get(output)
                output.shape = None if shape is None else ir.Shape([_named(size) for size in shape])

    def _require(self, node: ir.Node) -> None:
        """Where the file's shape is known, the freed one must be, and follow it."""
        for output in node.outputs:
            old, new = self.old.shapes.get(output), self.new.shapes.get(output)
            if old is not None and (new is None or len(new) != len(old)):
                raise self.refusal(node)

    def refusal(self, node: ir.Node) -> ModelError:
        """The file cannot be freed at this node."""
        sizes = [
            f"{count} {what}"
            for count, what in ((self.rows, "rows"), (self.tokens, "tokens"))
            if count < ROWS
        ]
        return ModelError(
            f"the file is fixed to {' of '.join(sizes)}, and its node `{node.name}` ({node.op_type}) does not work "
            "for others",
            hint=RE_EXPORT,
        )

    # What a dimension is in the graph.

    def dimension(self, size: int) -> ir.Value | None:
        """`[1]` int64: a number, or the measured batch or length; None for products of them."""
        if size in (ROWS, TOKENS):
            return self._length(0 if size == ROWS else 1)
        return self.constant(np.array([size])) if size % ROWS and size % TOKENS else None

    def _length(self, axis: int) -> ir.Value:
        import onnx_ir as ir

        if axis not in self.lengths:
            node = ir.node("Shape", [self.model.graph.inputs[0]], {"start": axis, "end": axis + 1})
            node.outputs[0].name = f"free_{(BATCH, SEQUENCE)[axis]}"
            node.outputs[0].dtype, node.outputs[0].shape = ir.DataType.INT64, ir.Shape([1])
            self.model.graph.insert_before(self.first, node)
            self.lengths[axis] = node.outputs[0]
            for world, sizes in ((self.old, (self.rows, self.tokens)), (self.new, (ROWS, TOKENS))):
                world.shapes[node.outputs[0]] = (1,)
                world.numbers[node.outputs[0]] = np.array([sizes[axis]])
        return self.lengths[axis]

    def constant(self, array: Array) -> ir.Value:
        """A new int64 initializer."""
        value = self.editor.constant(np.asarray(array, np.int64), "free_constant")
        for world in (self.old, self.new):
            world.note_constant(value)
        return value

    def before(
        self, node: ir.Node, op_type: str, inputs: Sequence[ir.Value], like: ir.Value, **attributes: Any
    ) -> ir.Value:
        """A new node in front of another; both worlds learn of its output."""
        import onnx_ir as ir

        made = ir.node(op_type, list(inputs), attributes, metadata_props=dict(node.metadata_props))
        made.outputs[0].name = f"{node.outputs[0].name}_{op_type.lower()}_{len(self.new.shapes)}"
        made.outputs[0].type = like.type
        assert node.graph is not None
        node.graph.insert_before(node, made)
        for world in (self.old, self.new):
            world.infer(made)
        return made.outputs[0]

    def write_target(self, node: ir.Node, target: Shape) -> None:
        """Let a Reshape or Expand make this shape, whatever the sizes are."""
        pieces = [self.dimension(size) for size in target]
        unknown = [index for index, piece in enumerate(pieces) if piece is None]
        if len(unknown) > 1 or (unknown and node.op_type != "Reshape"):
            raise self.refusal(node)
        whole = [piece if piece is not None else self.constant(np.array([-1])) for piece in pieces]
        node.replace_input_with(1, self.before(node, "Concat", whole, whole[0], axis=0))
        node.attributes.pop("allowzero", None)

    def changed(self, value: ir.Value | None) -> tuple[Shape, Shape] | None:
        """Both shapes of a value, where they are known."""
        old, new = (world.shapes.get(value) if value is not None else None for world in (self.old, self.new))
        return (old, new) if old is not None and new is not None and len(old) == len(new) else None


def _named(size: int) -> int | str:
    """A dimension by name: `batch`, `sequence`, or a product with them."""
    names = []
    for prime, name in ((ROWS, BATCH), (TOKENS, SEQUENCE)):
        while size and size % prime == 0:
            size //= prime
            names.append(name)
    return size if not names else "*".join([*names, *([str(size)] if size != 1 else [])])


def _reshape(freeing: _Freeing, node: ir.Node) -> None:
    shapes, made = freeing.changed(node.inputs[0]), freeing.old.shapes.get(node.outputs[0])
    if shapes is None or made is None or _follows(freeing, node):
        return
    freeing.write_target(node, _regrouped(*shapes, made, freeing.rows, freeing.tokens))


def _follows(freeing: _Freeing, node: ir.Node) -> bool:
    """Whether a Reshape with the target it has keeps every number, and does not fold the free sizes away."""
    shapes = freeing.changed(node.inputs[0])
    assert shapes is not None
    freeing.new.infer(node)
    result = freeing.new.shapes.get(node.outputs[0])
    if result is None or 0 in result:
        return False
    wanted = _regrouped(*shapes, freeing.old.shapes[node.outputs[0]] or (), freeing.rows, freeing.tokens)
    return result == wanted


def _regrouped(old: Shape, new: Shape, made: Shape, rows: int, tokens: int) -> Shape:
    """What `made`, a reshape of `old`, becomes when `old` is `new`.

    Dimensions are taken in groups of equal products, from the left, as merging and splitting axes does.
    """
    result: list[int] = []
    left, right = 0, 0
    while left < len(old) or right < len(made):
        inputs, outputs = [left] if left < len(old) else [], [right] if right < len(made) else []
        left, right = left + len(inputs), right + len(outputs)
        while (have := _product(old, inputs)) != (want := _product(made, outputs)):
            if have < want and left < len(old):
                inputs.append(left)
                left += 1
            elif right < len(made):
                outputs.append(right)
                right += 1
            else:
                return made
        result += _shared_out(_product(new, inputs), [made[index] for index in outputs], rows, tokens)
    return tuple(result)


def _product(shape: Shape, indices: Sequence[int]) -> int:
    return int(np.prod([shape[index] for index in indices], dtype=object)) if indices else 1


def _shared_out(product: int, sizes: list[int], rows: int, tokens: int) -> list[int]:
    """The dimensions of one group, with the free sizes that its product holds where the fixed ones were."""
    if len(sizes) == 1:
        return [product]
    result = list(sizes)
    for prime, fixed in ((ROWS, rows), (TOKENS, tokens)):
        if product % prime or any(size % prime == 0 for size in result):
            continue
        exact = [index for index, size in enumerate(sizes) if size == fixed and result[index] == size]
        divisible = [index for index, size in enumerate(sizes) if size % fixed == 0]
        for index in [*exact, *divisible][:1]:
            result[index] = result[index] // fixed * prime
    return result


def _expand(freeing: _Freeing, node: ir.Node) -> None:
    shapes, made = freeing.changed(node.inputs[0]), freeing.old.shapes.get(node.outputs[0])
    goal = node.inputs[1]
    target = freeing.new.numbers.get(goal) if goal is not None else None
    if shapes is None or made is None or target is None or not {ROWS, TOKENS}.isdisjoint(target.tolist()):
        return
    old, new = shapes
    missing = len(made) - len(old)
    fixed = {0: (freeing.rows, ROWS)}
    result = []
    for index, size in enumerate(made):
        own = index - missing
        if own >= 0 and old[own] == size:
            result.append(new[own])
        elif index in fixed and size == fixed[index][0]:
            result.append(fixed[index][1])
        else:
            result.append(TOKENS if size == freeing.tokens else size)
    if tuple(result) != made:
        freeing.write_target(node, tuple(result))


def _slice(freeing: _Freeing, node: ir.Node) -> None:
    """An end that was the whole length stays the whole length."""
    shapes = freeing.changed(node.inputs[0])
    ends, axes = (
        freeing.new.numbers.get(value) if value is not None else None
        for value in (*node.inputs[2:4], None)[:2]
    )
    if shapes is None or ends is None:
        return
    old, new = shapes
    along = list(range(len(ends))) if axes is None else [int(axis) % len(old) for axis in axes.reshape(-1)]
    wanted = [
        np.iinfo(np.int64).max if new[axis] != old[axis] and end >= old[axis] else int(end)
        for end, axis in zip(ends.reshape(-1), along, strict=True)
    ]
    if wanted != ends.reshape(-1).tolist():
        node.replace_input_with(2, freeing.constant(np.array(wanted)))


def _agree(freeing: _Freeing, node: ir.Node) -> None:
    """Cut inputs made of constants to the free size of the others."""
    axis = _attribute(node, "axis", None) if node.op_type in ("Concat", "GatherElements") else None
    rank = max(
        (len(freeing.old.shapes.get(value) or ()) for value in node.inputs if value is not None), default=0
    )
    for index, value in enumerate(node.inputs):
        if value is None or (shapes := freeing.changed(value)) is None:
            continue
        for own, (old, new) in enumerate(zip(*shapes, strict=True)):
            position = own + rank - len(shapes[0])
            if old != new or old == 1 or (axis is not None and position == axis % rank):
                continue
            if node.op_type == "MatMul" and position >= rank - 2:
                continue
            other = _free_at(freeing, node, position - rank, old)
            if other is not None and node.inputs[index] is not None:
                _cut(freeing, node, index, own, other)


def _free_at(freeing: _Freeing, node: ir.Node, from_right: int, size: int) -> int | None:
    """The free size that another input has where this one has the fixed `size`."""
    for value in node.inputs:
        shapes = freeing.changed(value)
        if shapes is None or len(shapes[0]) < -from_right:
            continue
        old, new = shapes[0][from_right], shapes[1][from_right]
        if old == size and new in (ROWS, TOKENS) and new != old:
            return new
    return None


def _cut(freeing: _Freeing, node: ir.Node, index: int, axis: int, size: int) -> None:
    value = node.inputs[index]
    assert value is not None
    # Rows of a constant are alike, or the file would tell its rows apart: the comparison would find it.
    end = freeing.constant(np.array([1])) if size == ROWS else freeing.dimension(size)
    assert end is not None
    start, along = freeing.constant(np.array([0])), freeing.constant(np.array([axis]))
    cut = freeing.before(node, "Slice", [value, start, end, along], value)
    if size == ROWS and node.op_type in ("Concat", "GatherElements"):
        # These do not broadcast.
        rows = freeing.dimension(ROWS)
        assert rows is not None
        others = [freeing.constant(np.array([1]))] * (len(freeing.old.shapes[value] or ()) - axis - 1)
        target = freeing.before(node, "Concat", [rows, *others], rows, axis=0) if others else rows
        cut = freeing.before(node, "Expand", [cut, target], value)
    node.replace_input_with(index, cut)


REPAIRS: Mapping[str, Any] = {
    "Reshape": _reshape,
    "Expand": _expand,
    "Slice": _slice,
    **dict.fromkeys(BROADCASTING, _agree),
}
