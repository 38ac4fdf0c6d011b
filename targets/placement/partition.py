"""ONNX Runtime's partition algorithm: waves of supported units (providers/partitioning_utils.cc)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from edgeq.targets.placement.model_view import GraphView, Node
from edgeq.targets.placement.node_units import NodeUnit

IsSupported: TypeAlias = Callable[[NodeUnit, set[str]], bool]
"""Whether a unit is taken, given the names the current partition has made so far."""


@dataclass(frozen=True, slots=True)
class UnitGraph:
    """Units and the edges between them: `downstream[i]` lists a unit once per edge."""

    units: tuple[NodeUnit, ...]
    downstream: tuple[tuple[int, ...], ...]
    in_degree: tuple[int, ...]


def unit_graph(graph: GraphView, units: tuple[NodeUnit, ...]) -> UnitGraph:
    """Edges between units; those inside a QDQ group disappear."""
    unit_of = {node.index: position for position, unit in enumerate(units) for node in unit.nodes}
    downstream: list[list[int]] = [[] for _ in units]
    in_degree = [0] * len(units)
    for position, unit in enumerate(units):
        for node in unit.nodes:
            for user, _ in graph.output_edges(node):
                to = unit_of[user.index]
                if to != position:
                    downstream[position].append(to)
                    in_degree[to] += 1
    return UnitGraph(units, tuple(map(tuple, downstream)), tuple(in_degree))


def partitions(edges: UnitGraph, is_supported: IsSupported) -> list[list[NodeUnit]]:
    """Groups of units, each a wave of supported units; filters come after.

    A supported unit joins the current group. An unsupported one directly behind the group waits for the next
    wave; any other is passed over. When nothing is ready, the group closes and
    the waiting units start the next wave.
    """
    left = list(edges.in_degree)
    ready = deque(position for position, count in enumerate(left) if count == 0)
    waiting: deque[int] = deque()
    groups: list[list[NodeUnit]] = []
    group: list[NodeUnit] = []
    border: set[int] = set()
    made: set[str] = set()
    while ready or waiting:
        if not ready:
            if group:
                groups.append(group)
                group, border, made = [], set(), set()
            ready, waiting = waiting, ready
            continue
        position = ready.popleft()
        unit = edges.units[position]
        supported = is_supported(unit, made)
        if not supported and position in border:
            waiting.append(position)
            continue
        if supported:
            group.append(unit)
            border.discard(position)
            border.update(edges.downstream[position])
            made.update(name for node in unit.nodes for name in node.outputs)
        for to in edges.downstream[position]:
            left[to] -= 1
            if left[to] == 0:
                ready.append(to)
    if group:
        groups.append(group)
    return groups


def behind_stop_ops(graph: GraphView, stop_ops: Iterable[str]) -> set[int]:
    """Indices of the nodes named by `stop_ops` and of everything after them."""
    stops = set(stop_ops)
    excluded: set[int] = set()
    for node in graph.nodes:
        if node.op_type in stops or any(parent.index in excluded for parent in graph.input_edges(node)):
            excluded.add(node.index)
    return excluded


def partition_inputs(graph: GraphView, group: Iterable[Node]) -> tuple[str, ...]:
    """Names a partition reads that it does not make itself, in order of use, constants included."""
    members = list(group)
    made = {name for node in members for name in node.outputs}
    return tuple(
        dict.fromkeys(
            name for node in members for name in (*node.inputs, *node.captured) if name and name not in made
        )
    )


def partition_outputs(graph: GraphView, group: Iterable[Node]) -> tuple[str, ...]:
    """Names a partition makes that leave it."""
    members = list(group)
    inside = {node.index for node in members}
    return tuple(
        name
        for node in members
        for name in node.outputs
        if name
        and (name in graph.outputs or any(user.index not in inside for user, _ in graph.consumers(name)))
    )


def reads_only_constants(graph: GraphView, group: Iterable[Node]) -> bool:
    """Whether nothing but initializers enters a partition: the runtime leaves such work to the CPU."""
    return all(graph.is_constant(name) for name in partition_inputs(graph, group))
