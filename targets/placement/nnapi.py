"""Whether the NNAPI execution provider takes a node unit: its support check, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from edgeq.targets.placement import fixes
from edgeq.targets.placement.malformed import FIX as MALFORMED_FIX
from edgeq.targets.placement.malformed import malformed
from edgeq.targets.placement.model_view import GraphView, Node
from edgeq.targets.placement.nnapi_qdq_rules import check_group
from edgeq.targets.placement.nnapi_rules import NNAPI_RULES
from edgeq.targets.placement.node_units import NodeUnit
from edgeq.targets.placement.rules import Context, OpRule, Refusal, apply_rule, needed_level

DEFAULT_STOP_OPS = frozenset({"NonMaxSuppression"})
INTERNAL_U8_OPS = frozenset({"Transpose", "Resize", "Concat", "MaxPool"})
LONE_OPS = frozenset({"Reshape", "Flatten", "Identity"})
LAYOUT_OPS = frozenset(
    {
        "Conv",
        "QLinearConv",
        "AveragePool",
        "QLinearAveragePool",
        "MaxPool",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "BatchNormalization",
        "Resize",
        "DepthToSpace",
        "LRN",
    }
)
_MIN_LEVEL = 27


@dataclass(frozen=True, slots=True)
class Release:
    """What changed between ONNX Runtime releases: newest operator version, layout pass, external weights."""

    max_since_version: int
    max_layout_opset: int
    allows_external: bool


RELEASES: Mapping[str, Release] = MappingProxyType(
    {"1.21": Release(21, 22, allows_external=False), "1.27": Release(25, 26, allows_external=True)}
)
"""Releases whose source was read. Between them the switch-over points are not known."""


@dataclass(frozen=True, slots=True)
class NnapiOptions:
    """The phone and the session the prediction is for.

    Attributes:
        api_level: Android API level (27 to 31; newer devices count as 31 here).
        release: rules of which ONNX Runtime, a key of `RELEASES`.
        stop_ops: operators that end acceleration together with everything after them
            (session option `ep.nnapi.partitioning_stop_ops`).
    """

    api_level: int = 29
    release: str = "1.27"
    stop_ops: frozenset[str] = DEFAULT_STOP_OPS


def context_for(graph: GraphView, options: NnapiOptions) -> Context:
    """What the checks may look at."""
    release = RELEASES[options.release]
    return Context(
        graph,
        min(options.api_level, 31),
        max_since_version=release.max_since_version,
        allows_external=release.allows_external,
    )


def global_refusal(context: Context, options: NnapiOptions) -> Refusal | None:
    """A reason to take nothing of the whole graph."""
    if context.level < _MIN_LEVEL:
        return Refusal(
            f"Android API level {context.level} has no NNAPI, needs {_MIN_LEVEL} (Android 8.1)",
            "raise --api-level",
        )
    limit = RELEASES[options.release].max_layout_opset
    if context.graph.opset > limit:
        return Refusal(
            f"the model's opset {context.graph.opset} is above {limit}, the newest the layout pass of ONNX "
            f"Runtime {options.release} knows: the provider is given no nodes at all",
            "export at opset 17 (21 for ONNX Runtime 1.21 and later)",
        )
    return None


def refusal(context: Context, unit: NodeUnit) -> Refusal | None:
    """Why the provider does not take this unit; None when it does."""
    rule = NNAPI_RULES.get(unit.op_type)
    if rule is None:
        return Refusal(f"{_label(unit)} has no NNAPI implementation", fixes.NNAPI_FIXES.get(unit.op_type))
    return (
        _check_definition(unit)
        or _check_level(context, unit, rule)
        or (check_group(context, unit) if unit.is_group else None)
        or _check_shapes(context, unit)
        or _check_external(context, unit)
        or _with_dtype_fix(context, unit, apply_rule(context, unit, _for_unit(rule, unit)))
    )


def _check_definition(unit: NodeUnit) -> Refusal | None:
    problem = malformed(unit.target)
    return Refusal(problem, MALFORMED_FIX) if problem else None


def _label(unit: NodeUnit) -> str:
    domain = unit.target.domain
    return f"{domain}.{unit.op_type}" if domain else unit.op_type


def _for_unit(rule: OpRule, unit: NodeUnit) -> OpRule:
    return replace(rule, dtypes=MappingProxyType({})) if unit.is_group else rule


def _check_level(context: Context, unit: NodeUnit, rule: OpRule) -> Refusal | None:
    level = needed_level(context, unit, rule)
    if level <= context.level:
        return None
    return Refusal(
        f"needs Android API level {level}, the target has {context.level}", "raise the minimum API level"
    )


def _check_shapes(context: Context, unit: NodeUnit) -> Refusal | None:
    for position in range(len(unit.target.inputs)):
        if not unit.has_input(position):
            continue
        value = unit.input(position)
        names = (value.name, value.scale, value.zero_point) if value.quantizer else (value.name,)
        for name in names:
            if name and context.graph.static_shape(name) is None:
                shape = context.graph.shape(name)
                found = "no known shape" if shape is None else f"shape {_shape_text(shape)}"
                return Refusal(
                    f"input {position} has {found}, expected fixed dimensions", fixes.STATIC_INPUT_FIX
                )
    return None


def _shape_text(shape: tuple[int | str | None, ...]) -> str:
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in shape) + "]"


def _check_external(context: Context, unit: NodeUnit) -> Refusal | None:
    if context.allows_external:
        return None
    for node in unit.nodes:
        for name in node.inputs:
            if context.graph.is_external(name):
                return Refusal(
                    f"`{name}` is stored as external data, which this ONNX Runtime release refuses",
                    "embed the weights in the model file",
                )
    return None


def _with_dtype_fix(context: Context, unit: NodeUnit, found: Refusal | None) -> Refusal | None:
    if found is None or found.fix is not None or not unit.target.inputs:
        return found
    dtype = context.graph.dtype(unit.input(0).name)
    if f" is {dtype}," not in found.reason:
        return found
    return Refusal(found.reason, fixes.INPUT_DTYPE_FIXES.get(dtype or ""))


def internal_u8_refusal(graph: GraphView, unit: NodeUnit, made_in_group: set[str]) -> Refusal | None:
    """A bare uint8 Transpose, Resize, Concat or MaxPool needs its producer in the same partition.

    Graph inputs carry no scale and zero point, so the provider can only know them from inside.
    """
    target = unit.target
    if unit.is_group or target.op_type not in INTERNAL_U8_OPS or graph.dtype(target.inputs[0]) != "uint8":
        return None
    names = target.inputs if target.op_type == "Concat" else target.inputs[:1]
    if all(name in made_in_group for name in names):
        return None
    return Refusal(
        "input 0 is uint8 and comes from outside the partition, so its scale is unknown",
        "quantize inside the graph, directly before it",
    )


def is_lone_copy(group: list[Node]) -> bool:
    """A partition of one operator that only copies is not worth it."""
    return len(group) == 1 and group[0].op_type in LONE_OPS


def api_level_of(context: Context, unit: NodeUnit) -> int:
    """Android API level this taken unit needs to run."""
    rule = NNAPI_RULES[unit.op_type]
    per_channel = unit.op_type == "Conv" and unit.is_group and _scales(context, unit) > 1
    return max(needed_level(context, unit, rule), rule.built_level, 29 if per_channel else 0)


def _scales(context: Context, unit: NodeUnit) -> int:
    shape = context.graph.static_shape(unit.input(1).scale) or (1,)
    return shape[0] if shape else 1


def expanded_operations(context: Context, unit: NodeUnit) -> int:
    """How many NNAPI operations a unit becomes.

    A batched MatMul over n matrices is built as SPLIT, n FULLY_CONNECTED and CONCAT: 4n+4 operations on
    rank 3, 4n+7 above. Identity is an alias; LeakyRelu is LESS, MUL, SELECT; the others count as one.
    """
    if unit.op_type == "MatMul":
        shape = context.graph.static_shape(unit.input(0).name) or ()
        if len(shape) >= 3:
            count = 1
            for dim in shape[:-2]:
                count *= dim
            return 4 * count + (4 if len(shape) == 3 else 7)
    return {"Identity": 0, "LeakyRelu": 3}.get(unit.op_type, 1)
