"""What both providers do with their groups: filter them, and name what is left over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from edgeq.targets.placement.model_view import GraphView, Node
from edgeq.targets.placement.node_units import NodeUnit
from edgeq.targets.placement.report import RefusedNode
from edgeq.targets.placement.rules import Refusal

Refusals: TypeAlias = dict[int, Refusal]
"""By index of the unit's target."""
RejectGroup: TypeAlias = Callable[[GraphView, list[Node]], "Refusal | None"]


def filtered_groups(
    graph: GraphView, groups: list[list[NodeUnit]], refusals: Refusals, reject: RejectGroup
) -> list[list[NodeUnit]]:
    """The groups that survive the provider's filters; the others' units are added to `refusals`."""
    kept = []
    for group in groups:
        rejected = reject(graph, [node for unit in group for node in unit.nodes])
        if rejected is None:
            kept.append(group)
        else:
            refusals.update({unit.target.index: rejected for unit in group})
    return kept


def node_names(groups: Sequence[Sequence[NodeUnit]]) -> tuple[tuple[str, ...], ...]:
    """Names of the nodes of each group."""
    return tuple(tuple(node.name for unit in group for node in unit.nodes) for group in groups)


def refused_nodes(units: Sequence[NodeUnit], refusals: Mapping[int, Refusal]) -> tuple[RefusedNode, ...]:
    """Every node of every refused unit, in topological order."""
    return tuple(
        RefusedNode(node.name, node.op_type, refusal.reason, refusal.fix)
        for unit in units
        if (refusal := refusals.get(unit.target.index))
        for node in unit.nodes
    )
