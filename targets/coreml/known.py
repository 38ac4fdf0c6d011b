"""Values known at lowering time, possibly one per sequence length, and their folding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.types import Array

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A value that depends on no input data, only on weights and on the sequence length.

    Attributes:
        per_length: its value at each sequence length; the same object everywhere when it does not vary.
        source: the initializer it is, for quantization decisions.
        transposed: whether it is that initializer transposed.
    """

    per_length: tuple[Array, ...]
    source: str | None = None
    transposed: bool = False

    @classmethod
    def same(cls, value: Array, count: int, source: str | None = None) -> Known:
        """A value that does not vary."""
        return cls((value,) * count, source)

    @property
    def varies(self) -> bool:
        """Whether the value changes with the sequence length."""
        first = self.per_length[0]
        return any(other is not first and not _equal(first, other) for other in self.per_length[1:])

    @property
    def longest(self) -> Array:
        """The value at the longest sequence (lengths are sorted)."""
        return self.per_length[-1]


def _equal(a: Array, b: Array) -> bool:
    return a.shape == b.shape and bool(np.array_equal(a, b))


def fold(node: ir.Node, inputs: Sequence[Known | None], count: int) -> list[Known]:
    """Compute a node whose inputs are all known, once per distinct sequence length."""
    if node.op_type == "Transpose" and inputs[0] is not None and inputs[0].source is not None:
        return [_transpose(node, inputs[0])]
    compute = evaluator(node)
    if not any(known.varies for known in inputs if known is not None):
        results = compute([None if known is None else known.longest for known in inputs])
        return [Known.same(result, count) for result in results]
    by_length = [
        compute([None if known is None else known.per_length[index] for known in inputs])
        for index in range(count)
    ]
    return [Known(tuple(values)) for values in zip(*by_length, strict=True)]


def _transpose(node: ir.Node, weight: Known) -> Known:
    """Transposing a matrix keeps its name, so a tied weight stays one constant."""
    perm = node.attributes.get("perm")
    axes = tuple(perm.as_ints()) if perm is not None else None
    value = np.transpose(weight.longest, axes)
    matrix = value.ndim == 2 and axes in (None, (1, 0))
    source = weight.source if matrix else None
    return Known((value,) * len(weight.per_length), source, matrix and not weight.transposed)


def evaluator(node: ir.Node) -> Callable[[Sequence[Array | None]], list[Array]]:
    """A function that runs one node through ONNX's reference implementation."""
    import onnx
    import onnx_ir as ir
    from onnx.reference import ReferenceEvaluator

    proto = ir.serde.serialize_node(node)
    names = [name for name in proto.input if name]
    free = {attribute.ref_attr_name for attribute in proto.attribute if attribute.ref_attr_name}
    if free:
        raise UnsupportedError(
            f"operator `{node.op_type}` at `{node.name}` refers to function attributes {free}"
        )
    graph = onnx.helper.make_graph(
        [proto],
        "folding",
        [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in dict.fromkeys(names)],
        [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in proto.output],
    )
    version = node.graph.opset_imports.get("", 20) if node.graph is not None else 20
    opset = onnx.helper.make_opsetid("", version)
    model = onnx.helper.make_model(graph, opset_imports=[opset])
    runner = ReferenceEvaluator(model)

    def compute(values: Sequence[Array | None]) -> list[Array]:
        feeds = {name: value for name, value in zip(proto.input, values, strict=True) if value is not None}
        return [np.asarray(result) for result in runner.run(None, feeds)]

    return compute
