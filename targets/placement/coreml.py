"""What ONNX Runtime's Core ML execution provider would take of a graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgeq.targets.placement import fixes
from edgeq.targets.placement.assemble import Refusals, filtered_groups, node_names, refused_nodes
from edgeq.targets.placement.coreml_checks import MAX_RANK
from edgeq.targets.placement.coreml_rules import COREML_RULES, EMPTY_INPUT_OPS
from edgeq.targets.placement.malformed import FIX as MALFORMED_FIX
from edgeq.targets.placement.malformed import malformed
from edgeq.targets.placement.model_view import GraphView, Node
from edgeq.targets.placement.node_units import NodeUnit
from edgeq.targets.placement.partition import partition_inputs, partition_outputs, partitions, unit_graph
from edgeq.targets.placement.report import Landmine, Prediction
from edgeq.targets.placement.rules import Context, OpRule, Refusal, apply_rule, needed_level

TRIVIAL_OPS = frozenset(
    {
        "Cast",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Tile",
        "Identity",
        "Ceil",
    }
)
_OWN_PACKAGE = (
    "this is ONNX Runtime's Core ML provider; `edgeq export --target coreml` does without it and lowers the whole "
    "graph, or refuses it and names the operators"
)
_MAX_SINCE_VERSION = 25
_MIN_VERSION = 5
_IO_DTYPES = ("float32", "float16", "int32", "int64")


@dataclass(frozen=True, slots=True)
class CoreMLOptions:
    """The device and the session the prediction is for.

    Attributes:
        model_format: `MLProgram` or `NeuralNetwork` (provider option ModelFormat).
        version: Core ML version (5 = iOS 15, 6 = iOS 16, 7 = iOS 17).
        static_only: provider option RequireStaticInputShapes.
    """

    model_format: str = "MLProgram"
    version: int = 6
    static_only: bool = False


def predict_coreml(graph: GraphView, options: CoreMLOptions) -> Prediction:
    """Predict for one graph. The provider has no QDQ groups: every node stands alone."""
    context = Context(
        graph,
        options.version,
        ml_program=options.model_format == "MLProgram",
        max_since_version=_MAX_SINCE_VERSION,
        static_only=options.static_only,
    )
    units = tuple(NodeUnit(node) for node in graph.nodes)
    rules = COREML_RULES[options.model_format]
    refusals: Refusals = {}
    for unit in units:
        if found := refusal(context, unit, rules.get(unit.op_type), options.model_format):
            refusals[unit.target.index] = found
    groups = partitions(unit_graph(graph, units), lambda unit, made: unit.target.index not in refusals)
    kept = filtered_groups(graph, groups, refusals, _reject_trivial)
    taken = [unit for group in kept for unit in group]
    versions = (needed_level(context, unit, rules[unit.op_type]) for unit in taken)
    return Prediction(
        target="coreml",
        nodes=len(graph.nodes),
        taken=len(taken),
        partition_nodes=node_names(kept),
        min_version=max(versions, default=None),
        refused=refused_nodes(units, refusals),
        landmines=tuple(mine for group in kept for mine in border_types(graph, group)),
        opset=graph.opset,
        units=len(units),
        notes=(f"model format {options.model_format}", _OWN_PACKAGE),
    )


def refusal(context: Context, unit: NodeUnit, rule: OpRule | None, model_format: str) -> Refusal | None:
    """Why the provider does not take this node; None when it does."""
    if context.level < _MIN_VERSION:
        return Refusal(f"Core ML {context.level} is too old, needs {_MIN_VERSION} (iOS 15, macOS 12)")
    if rule is None:
        return _unsupported(unit, model_format)
    if broken := malformed(unit.target):
        return Refusal(broken, MALFORMED_FIX)
    level = needed_level(context, unit, rule)
    if level > context.level:
        return Refusal(
            f"needs Core ML {level}, the target has {context.level}", "raise the minimum iOS version"
        )
    return _check_inputs(context, unit) or apply_rule(context, unit, rule)


def _unsupported(unit: NodeUnit, model_format: str) -> Refusal:
    if model_format != "MLProgram" and unit.op_type in COREML_RULES["MLProgram"]:
        return Refusal(
            f"{unit.op_type} is not supported by the {model_format} format", "use the MLProgram format"
        )
    return Refusal(f"{unit.op_type} has no Core ML implementation", fixes.COREML_FIXES.get(unit.op_type))


def _check_inputs(context: Context, unit: NodeUnit) -> Refusal | None:
    for position, name in enumerate(unit.target.inputs):
        if not name:
            continue
        shape = context.graph.shape(name)
        if shape is None:
            return Refusal(f"input {position} has no known shape", fixes.STATIC_INPUT_FIX)
        if len(shape) > MAX_RANK:
            return Refusal(f"input {position} has rank {len(shape)}, expected at most {MAX_RANK}")
        if 0 in shape and unit.op_type not in EMPTY_INPUT_OPS:
            return Refusal(f"input {position} of shape {list(shape)} is empty")
        if context.static_only and context.graph.static_shape(name) is None:
            return Refusal(f"input {position} has free dimensions", fixes.STATIC_INPUT_FIX)
    return None


def _reject_trivial(graph: GraphView, group: list[Node]) -> Refusal | None:
    if all(node.op_type in TRIVIAL_OPS for node in group):
        return Refusal("its partition only moves data; that is left on the CPU")
    return None


def border_types(graph: GraphView, group: Sequence[NodeUnit]) -> Iterator[Landmine]:
    """What crosses the border of a partition is float or integer, never bool."""
    members = [unit.target for unit in group]
    entering = (name for name in partition_inputs(graph, members) if not graph.is_constant(name))
    for name in (*entering, *partition_outputs(graph, members)):
        dtype = graph.dtype(name)
        if dtype is not None and dtype not in _IO_DTYPES:
            yield Landmine(
                "border-type",
                tuple(node.name for node, _ in graph.consumers(name)[:1]) or (name,),
                f"`{name}` is {dtype} where it enters or leaves the partition",
                "only float32, float16, int32 and int64 can be passed to Core ML: session creation fails",
                "use a float mask instead of a bool one",
            )
