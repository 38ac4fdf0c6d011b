"""What ONNX Runtime's NNAPI execution provider would take of a graph."""

from __future__ import annotations

from collections.abc import Sequence

from edgeq.targets.placement import nnapi
from edgeq.targets.placement.assemble import Refusals, filtered_groups, node_names, refused_nodes
from edgeq.targets.placement.landmines import find_landmines
from edgeq.targets.placement.model_view import GraphView, Node
from edgeq.targets.placement.node_units import NodeUnit, node_units
from edgeq.targets.placement.partition import behind_stop_ops, partitions, reads_only_constants, unit_graph
from edgeq.targets.placement.report import Prediction
from edgeq.targets.placement.rules import Context, Refusal


def predict_nnapi(graph: GraphView, options: nnapi.NnapiOptions) -> Prediction:
    """Predict for one graph whose dimensions are fixed."""
    context = nnapi.context_for(graph, options)
    units = node_units(graph)
    refusals = _refusals(context, units, options)

    def is_supported(unit: NodeUnit, made: set[str]) -> bool:
        if unit.target.index in refusals:
            return False
        late = nnapi.internal_u8_refusal(graph, unit, made)
        if late:
            late_refusals[unit.target.index] = late
            return False
        late_refusals.pop(unit.target.index, None)
        return True

    late_refusals: Refusals = {}
    groups = partitions(unit_graph(graph, units), is_supported)
    refusals |= late_refusals
    kept = filtered_groups(graph, groups, refusals, _group_refusal)
    taken = [unit for group in kept for unit in group]
    return Prediction(
        target="android",
        nodes=len(graph.nodes),
        taken=sum(len(unit.nodes) for unit in taken),
        partition_nodes=node_names(kept),
        min_version=max((nnapi.api_level_of(context, unit) for unit in taken), default=None),
        refused=refused_nodes(units, refusals),
        landmines=find_landmines(context, units, kept),
        opset=graph.opset,
        units=len(units),
        expanded_operations=sum(nnapi.expanded_operations(context, unit) for unit in taken),
        notes=_notes(taken),
    )


def _refusals(context: Context, units: Sequence[NodeUnit], options: nnapi.NnapiOptions) -> Refusals:
    if everything := nnapi.global_refusal(context, options):
        return {unit.target.index: everything for unit in units}
    stopped = behind_stop_ops(context.graph, options.stop_ops)
    refusals: Refusals = {}
    for unit in units:
        found = nnapi.refusal(context, unit)
        if found is None and any(node.index in stopped for node in unit.nodes):
            found = Refusal(
                "comes after a stop operator", "set ep.nnapi.partitioning_stop_ops to an empty string"
            )
        if found:
            refusals[unit.target.index] = found
    return refusals


def _group_refusal(graph: GraphView, group: list[Node]) -> Refusal | None:
    if nnapi.is_lone_copy(group):
        return Refusal("alone in its partition; a single copy is left on the CPU")
    if reads_only_constants(graph, group):
        return Refusal("its partition reads nothing but constants", "fold it into a constant")
    return None


def _notes(taken: Sequence[NodeUnit]) -> tuple[str, ...]:
    moved = sum(1 for unit in taken if unit.op_type in nnapi.LAYOUT_OPS)
    if not moved:
        return ()
    return (
        f"{moved} layout-sensitive operators move to NHWC with Transposes around them, and the provider is "
        "asked again; that second answer is not simulated",
    )
