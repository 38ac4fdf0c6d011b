"""The predictor: which nodes an accelerator takes, in how many pieces, and why not the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from edgeq.errors import ConfigError
from edgeq.targets.placement import nnapi
from edgeq.targets.placement.fix_dims import fix_dims
from edgeq.targets.placement.landmines import find_landmines
from edgeq.targets.placement.model_view import GraphView, Node
from edgeq.targets.placement.node_units import NodeUnit, node_units
from edgeq.targets.placement.optimized import OptimizeError, optimize_level_1
from edgeq.targets.placement.partition import (
    behind_stop_ops,
    partitions,
    reads_only_constants,
    unit_graph,
)
from edgeq.targets.placement.read_model import ModelLike, load_proto, read_graph
from edgeq.targets.placement.report import PlacementReport, Prediction, RefusedNode
from edgeq.targets.placement.rules import Context, Refusal

if TYPE_CHECKING:
    import onnx

TARGETS = ("android", "coreml")
_Refusals: TypeAlias = dict[int, Refusal]
_KeepGroup: TypeAlias = Callable[[GraphView, list[Node]], "Refusal | None"]


def predict(
    model: ModelLike,
    *,
    target: str,
    dims: Mapping[str, int] | None = None,
    api_level: int = 29,
    coreml_format: str = "MLProgram",
    onnxruntime_release: str = "1.27",
    optimized: bool = True,
) -> PlacementReport:
    """Predict what ONNX Runtime's NNAPI or Core ML provider would take of a model, without a phone.

    Args:
        model: path, proto or onnx_ir model. Weights in external files are not read.
        target: `android` (NNAPI) or `coreml`.
        dims: sizes of named free dimensions of the inputs.
        api_level: Android API level of the phone.
        coreml_format: `MLProgram` or `NeuralNetwork`.
        onnxruntime_release: whose NNAPI rules, a key of `nnapi.RELEASES`.
        optimized: also predict after the installed ONNX Runtime's level-1 optimizations.

    Raises:
        ModelError: the model cannot be read.
        ConfigError: an unknown target, format, release or dimension.
    """
    predictor = _predictor(target, api_level, coreml_format, onnxruntime_release)
    proto, folder = load_proto(model)
    if dims:
        proto = proto if folder else _copy(proto)
        fix_dims(proto, dims)
    as_shipped = predictor(read_graph(proto, base_dir=folder))
    if not optimized:
        return PlacementReport(as_shipped)
    try:
        after = predictor(read_graph(optimize_level_1(proto, folder)))
    except OptimizeError as error:
        return PlacementReport(as_shipped, optimized_skipped=str(error))
    return PlacementReport(as_shipped, after)


def _copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    import onnx

    copied = onnx.ModelProto()
    copied.CopyFrom(proto)
    return copied


def _predictor(
    target: str, api_level: int, coreml_format: str, release: str
) -> Callable[[GraphView], Prediction]:
    _check_choice("target", target, TARGETS)
    if target == "android":
        _check_choice("ONNX Runtime release", release, tuple(nnapi.RELEASES))
        options = nnapi.NnapiOptions(api_level, release)
        return lambda graph: predict_nnapi(graph, options)
    raise ConfigError("coreml is not there yet")


def _check_choice(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(f"unknown {what} `{value}`, expected one of: {', '.join(known)}")


def predict_nnapi(graph: GraphView, options: nnapi.NnapiOptions) -> Prediction:
    """Predict for one graph whose dimensions are fixed."""
    context = nnapi.context_for(graph, options)
    units = node_units(graph)
    refusals = _nnapi_refusals(context, units, options)

    def is_supported(unit: NodeUnit, made: set[str]) -> bool:
        if unit.target.index in refusals:
            return False
        late = nnapi.internal_u8_refusal(graph, unit, made)
        if late:
            late_refusals[unit.target.index] = late
            return False
        late_refusals.pop(unit.target.index, None)
        return True

    late_refusals: _Refusals = {}
    groups = partitions(unit_graph(graph, units), is_supported)
    refusals |= late_refusals
    kept = _filtered(graph, groups, refusals, _nnapi_group_refusal)
    taken = [unit for group in kept for unit in group]
    return Prediction(
        target="android",
        nodes=len(graph.nodes),
        taken=sum(len(unit.nodes) for unit in taken),
        partition_nodes=_node_names(kept),
        min_version=max((nnapi.api_level_of(context, unit) for unit in taken), default=None),
        refused=_refused(units, refusals),
        landmines=find_landmines(context, units, kept),
        opset=graph.opset,
        units=len(units),
        expanded_operations=sum(nnapi.expanded_operations(context, unit) for unit in taken),
        notes=_nnapi_notes(taken),
    )


def _nnapi_refusals(context: Context, units: Sequence[NodeUnit], options: nnapi.NnapiOptions) -> _Refusals:
    if everything := nnapi.global_refusal(context, options):
        return {unit.target.index: everything for unit in units}
    stopped = behind_stop_ops(context.graph, options.stop_ops)
    refusals: _Refusals = {}
    for unit in units:
        found = nnapi.refusal(context, unit)
        if found is None and any(node.index in stopped for node in unit.nodes):
            found = Refusal(
                "comes after a stop operator", "set ep.nnapi.partitioning_stop_ops to an empty string"
            )
        if found:
            refusals[unit.target.index] = found
    return refusals


def _nnapi_group_refusal(graph: GraphView, group: list[Node]) -> Refusal | None:
    if nnapi.is_lone_copy(group):
        return Refusal("alone in its partition; a single copy is left on the CPU")
    if reads_only_constants(graph, group):
        return Refusal("its partition reads nothing but constants", "fold it into a constant")
    return None


def _nnapi_notes(taken: Sequence[NodeUnit]) -> tuple[str, ...]:
    moved = sum(1 for unit in taken if unit.op_type in nnapi.LAYOUT_OPS)
    if not moved:
        return ()
    return (
        f"{moved} layout-sensitive operators move to NHWC with Transposes around them, and the provider is "
        "asked again; that second answer is not simulated",
    )


def _filtered(
    graph: GraphView, groups: list[list[NodeUnit]], refusals: _Refusals, reject: _KeepGroup
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


def _node_names(groups: Sequence[Sequence[NodeUnit]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(node.name for unit in group for node in unit.nodes) for group in groups)


def _refused(units: Sequence[NodeUnit], refusals: Mapping[int, Refusal]) -> tuple[RefusedNode, ...]:
    return tuple(
        RefusedNode(
            node.name, node.op_type, refusals[unit.target.index].reason, refusals[unit.target.index].fix
        )
        for unit in units
        if unit.target.index in refusals
        for node in unit.nodes
    )
