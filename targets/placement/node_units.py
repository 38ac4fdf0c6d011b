"""QDQ node units: the operator with its DequantizeLinear and QuantizeLinear neighbours as one thing.

Follows ONNX Runtime's node group selectors (optimizer/qdq_transformer, framework/node_unit). A node that
forms no group is a unit of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from edgeq.targets.placement.malformed import malformed
from edgeq.targets.placement.model_view import GraphView, Node


@dataclass(frozen=True, slots=True)
class UnitValue:
    """An input or output of a unit; for a quantized one the value beyond its DQ or Q."""

    name: str
    quantizer: Node | None = None

    @property
    def scale(self) -> str:
        """Name of the scale; only for quantized values."""
        return self.quantizer.inputs[1] if self.quantizer else ""

    @property
    def zero_point(self) -> str:
        """Name of the zero point, "" when left out."""
        return self.quantizer.inputs[2] if self.quantizer and self.quantizer.has_input(2) else ""


@dataclass(frozen=True, slots=True)
class NodeUnit:
    """One operator, or a QDQ group around it."""

    target: Node
    dqs: tuple[Node, ...] = ()
    qs: tuple[Node, ...] = ()
    clip: Node | None = None
    """A Relu or Clip between target and Q that the quantization range makes redundant."""
    is_group: bool = False

    @property
    def op_type(self) -> str:
        """Operator of the target."""
        return self.target.op_type

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes of the unit in topological order."""
        return (*self.dqs, self.target, *((self.clip,) if self.clip else ()), *self.qs)

    def input(self, index: int) -> UnitValue:
        """Input `index` of the target, seen through its DQ; its name is "" when it is left out."""
        name = self.target.inputs[index] if index < len(self.target.inputs) else ""
        if not self.dqs:
            return UnitValue(name)
        dq = next((dq for dq in self.dqs if dq.outputs[0] == name), None)
        return UnitValue(dq.inputs[0], dq) if dq else UnitValue(name)

    def output(self, index: int = 0) -> UnitValue:
        """Output `index` of the target, seen through its Q."""
        name = self.clip.outputs[0] if self.clip else self.target.outputs[index]
        q = next((q for q in self.qs if q.inputs[0] == name), None)
        return UnitValue(q.outputs[0], q) if q else UnitValue(name)

    def has_input(self, index: int) -> bool:
        """Whether input `index` of the target is given."""
        return self.target.has_input(index)


_Selector: TypeAlias = Callable[[GraphView, "_Candidate"], bool]


@dataclass(frozen=True, slots=True)
class _Candidate:
    node: Node
    dqs: tuple[Node, ...]
    qs: tuple[Node, ...]
    clip: Node | None


def node_units(graph: GraphView) -> tuple[NodeUnit, ...]:
    """Every unit of the graph, ordered by target."""
    grouped: set[int] = set()
    groups: dict[int, NodeUnit] = {}
    for node in graph.nodes:
        selector = SELECTORS.get(node.op_type) if node.domain == "" else None
        if selector is None or node.index in grouped:
            continue
        candidate = _candidate(graph, node)
        if (
            candidate is None
            or malformed(node)
            or grouped & {n.index for n in (*candidate.dqs, *candidate.qs)}
        ):
            continue
        if selector(graph, candidate):
            unit = NodeUnit(node, candidate.dqs, candidate.qs, candidate.clip, is_group=True)
            groups[node.index] = unit
            grouped |= {member.index for member in unit.nodes}
    return tuple(
        groups[node.index] if node.index in groups else NodeUnit(node)
        for node in graph.nodes
        if node.index in groups or node.index not in grouped
    )


def _candidate(graph: GraphView, node: Node) -> _Candidate | None:
    dqs = tuple(parent for parent in graph.input_edges(node) if parent.is_dq)
    clip = _clip_after(graph, node)
    tail = clip or node
    qs = tuple({user.index: user for user, _ in graph.output_edges(tail) if user.is_q}.values())
    if not dqs:
        return None
    if clip and (len(qs) != 1 or not _made_redundant(graph, clip, qs[0])):
        return None
    return _Candidate(node, dqs, qs, clip)


def _clip_after(graph: GraphView, node: Node) -> Node | None:
    users = graph.output_edges(node)
    if len(users) != 1 or users[0][0].op_type not in ("Relu", "Clip"):
        return None
    clip = users[0][0]
    return clip if len(graph.output_edges(clip)) == 1 and not graph.is_graph_output(clip) else None


def _made_redundant(graph: GraphView, clip: Node, q: Node) -> bool:
    """Whether what Q can represent lies inside the clip's bounds, so that clamping changes nothing."""
    scale, zero = _scalar(graph, q, 1), _scalar(graph, q, 2)
    limits = {"uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65535), "int16": (-32768, 32767)}
    dtype = graph.dtype(q.inputs[2]) if q.has_input(2) else "uint8"
    if scale is None or zero is None or dtype not in limits:
        return False
    low, high = ((limit - zero) * scale for limit in limits[dtype])
    bounds = _clip_bounds(graph, clip)
    return bounds is not None and low >= bounds[0] and high <= bounds[1]


def _clip_bounds(graph: GraphView, clip: Node) -> tuple[float, float] | None:
    if clip.op_type == "Relu":
        return 0.0, float("inf")
    bounds = [float(clip.attributes.get("min", "-inf")), float(clip.attributes.get("max", "inf"))]
    for position in (1, 2):
        if clip.has_input(position):
            value = graph.constant(clip.inputs[position])
            if value is None or value.size != 1:
                return None
            bounds[position - 1] = float(value.reshape(-1)[0])
    return bounds[0], bounds[1]


def _scalar(graph: GraphView, quantizer: Node, position: int) -> float | None:
    if not quantizer.has_input(position):
        return 0.0 if position == 2 else None
    value = graph.constant(quantizer.inputs[position])
    return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None


def _in(graph: GraphView, candidate: _Candidate, index: int = 0) -> str | None:
    return graph.dtype(candidate.dqs[index].inputs[0])


def _out(graph: GraphView, candidate: _Candidate, index: int = 0) -> str | None:
    return graph.dtype(candidate.qs[index].outputs[0])


def _well_formed(
    graph: GraphView, candidate: _Candidate, dq_count: int | None = None, *, without_q: bool = False
) -> bool:
    """Every DQ belongs to the target alone, and all outputs go to Qs (or, if allowed, none does)."""
    node, tail = candidate.node, candidate.clip or candidate.node
    expected = dq_count if dq_count is not None else sum(1 for name in node.inputs if name)
    if len(candidate.dqs) != expected or any(not _is_owned(graph, dq, node) for dq in candidate.dqs):
        return False
    if not candidate.qs:
        return without_q
    outputs = sum(1 for name in node.outputs if name)
    edges = len(graph.output_edges(tail))
    return outputs == len(candidate.qs) == edges and not (
        graph.is_graph_output(tail) or graph.is_graph_output(node)
    )


def _is_owned(graph: GraphView, dq: Node, node: Node) -> bool:
    users = graph.output_edges(dq)
    return len(users) == 1 and users[0][0] is node and not graph.is_graph_output(dq)


def _unary(graph: GraphView, candidate: _Candidate) -> bool:
    return _well_formed(graph, candidate, 1) and _in(graph, candidate) == _out(graph, candidate)


def _binary(graph: GraphView, candidate: _Candidate) -> bool:
    return _variadic(graph, candidate) and len(candidate.dqs) == 2


def _variadic(graph: GraphView, candidate: _Candidate) -> bool:
    if not _well_formed(graph, candidate):
        return False
    dtypes = {graph.dtype(dq.inputs[0]) for dq in candidate.dqs}
    return dtypes | {graph.dtype(q.outputs[0]) for q in candidate.qs} == dtypes and len(dtypes) == 1


def _drop_qdq(graph: GraphView, candidate: _Candidate) -> bool:
    """Data movement only: the quantization before and after must be identical constants."""
    if candidate.clip or not _unary(graph, candidate):
        return False
    return same_quantization(graph, candidate.dqs[0], candidate.qs[0])


def same_quantization(graph: GraphView, first: Node, second: Node) -> bool:
    """Whether two Q/DQ nodes have equal constant scalar scales and zero points, both given."""
    for position in (1, 2):
        if not (first.has_input(position) and second.has_input(position)):
            return False
        a, b = graph.constant(first.inputs[position]), graph.constant(second.inputs[position])
        if a is None or b is None or a.size != 1 or b.size != 1 or a.dtype != b.dtype:
            return False
        if not np.array_equal(a.reshape(-1), b.reshape(-1)):
            return False
    return True


def _matmul(graph: GraphView, candidate: _Candidate) -> bool:
    if not _well_formed(graph, candidate, 2):
        return False
    a, b = _in(graph, candidate, 0), _in(graph, candidate, 1)
    return a == _out(graph, candidate) and (a != "int8" or b == "int8")


def _gemm(graph: GraphView, candidate: _Candidate) -> bool:
    """The Q is optional here, which is what makes a Gemm without Q dangerous for NNAPI."""
    if not _well_formed(graph, candidate, without_q=True):
        return False
    return _weighted(graph, candidate)


def _conv(graph: GraphView, candidate: _Candidate) -> bool:
    return _well_formed(graph, candidate) and _weighted(graph, candidate)


def _weighted(graph: GraphView, candidate: _Candidate) -> bool:
    a, b = _in(graph, candidate, 0), _in(graph, candidate, 1)
    if candidate.qs and a != _out(graph, candidate):
        return False
    if a == "int8" and b != "int8":
        return False
    return len(candidate.dqs) < 3 or _in(graph, candidate, 2) == "int32"


def _split(graph: GraphView, candidate: _Candidate) -> bool:
    if candidate.clip or not _well_formed(graph, candidate, 1):
        return False
    return all(same_quantization(graph, candidate.dqs[0], q) for q in candidate.qs)


def _norm(graph: GraphView, candidate: _Candidate) -> bool:
    """Input and scale through DQ; the bias may stay as it is."""
    count = len(candidate.dqs)
    return (
        count >= 2
        and _well_formed(graph, candidate, count)
        and _in(graph, candidate) == _out(graph, candidate)
    )


def _where(graph: GraphView, candidate: _Candidate) -> bool:
    if not _well_formed(graph, candidate, 2):
        return False
    return _in(graph, candidate, 0) == _in(graph, candidate, 1) == _out(graph, candidate)


def _first_input(graph: GraphView, candidate: _Candidate) -> bool:
    """Data through DQ, further inputs (a pad value, clip bounds) optionally."""
    count = len(candidate.dqs)
    return (
        1 <= count <= 3
        and _well_formed(graph, candidate, count)
        and _in(graph, candidate) == _out(graph, candidate)
    )


def _maxpool(graph: GraphView, candidate: _Candidate) -> bool:
    return candidate.node.since_version == 12 and _drop_qdq(graph, candidate)


def _top_k(graph: GraphView, candidate: _Candidate) -> bool:
    return (
        len(candidate.dqs) == 1
        and len(candidate.qs) == 1
        and _is_owned(graph, candidate.dqs[0], candidate.node)
        and same_quantization(graph, candidate.dqs[0], candidate.qs[0])
    )


_UNARY = (
    "AveragePool GlobalAveragePool LeakyRelu ReduceMean ReduceMin ReduceMax ReduceProd ReduceSum Relu Gelu "
    "Elu HardSwish Sigmoid Slice LogSoftmax Softmax Sqrt Atan Asin Sin Cos Sign Tanh Exp Log LRN Ceil "
    "Floor Round Abs Neg DepthToSpace SpaceToDepth LpNormalization CumSum"
)
_DROP = "Gather GatherElements Reshape Expand Flatten Transpose Resize Squeeze Unsqueeze Tile"

SELECTORS: dict[str, _Selector] = {
    **dict.fromkeys(_UNARY.split(), _unary),
    **dict.fromkeys(_DROP.split(), _drop_qdq),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "PRelu"), _binary),
    **dict.fromkeys(("Concat", "Max", "Min"), _variadic),
    **dict.fromkeys(("Conv", "ConvTranspose"), _conv),
    **dict.fromkeys(("LayerNormalization", "InstanceNormalization", "BatchNormalization"), _norm),
    **dict.fromkeys(("Pad", "Clip"), _first_input),
    "MatMul": _matmul,
    "Gemm": _gemm,
    "MaxPool": _maxpool,
    "Split": _split,
    "Where": _where,
    "TopK": _top_k,
}
"""Which condition makes a group of which operator."""
