"""What a support rule is: data about types, ranks, constants and attributes, plus small named checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

from edgeq.targets.placement.model_view import GraphView
from edgeq.targets.placement.node_units import NodeUnit


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a unit stays on the CPU and, where one is known, what to change in the model."""

    reason: str
    fix: str | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """What a check may look at.

    Attributes:
        graph: the graph.
        level: NNAPI feature level (Android API level), or the Core ML version.
        ml_program: Core ML only: the MLProgram format rather than NeuralNetwork.
        max_since_version: newest operator version the execution provider knows.
        allows_external: whether weights stored outside the model file are accepted.
        static_only: whether every input needs a fully known shape.
    """

    graph: GraphView
    level: int
    ml_program: bool = False
    max_since_version: int = 25
    allows_external: bool = True
    static_only: bool = True


Check: TypeAlias = Callable[[Context, NodeUnit], "Refusal | None"]
Level: TypeAlias = Callable[[Context, NodeUnit], int]

FLOAT = ("float32",)
FLOATS = ("float32", "float16")


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute with its ONNX default and the only values the provider takes."""

    default: Any
    allowed: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class OpRule:
    """When an execution provider takes an operator.

    Attributes:
        level: lowest NNAPI feature level; `level_of` where it depends on the node.
        built_level: level the emitted operations need although the support check asks for less.
        min_opset: lowest since-version of the operator.
        dtypes: accepted element types by input position. The providers look at few inputs; so do we.
        ranks: (lowest, highest) rank by input position.
        constants: inputs that must be constant initializers when given, with what they are called.
        attributes: attributes with restricted values.
        checks: everything else, in the provider's order.
    """

    level: int = 27
    level_of: Level | None = None
    built_level: int = 0
    min_opset: int = 1
    dtypes: Mapping[int, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({0: FLOAT}))
    ranks: Mapping[int, tuple[int, int]] = field(default_factory=lambda: MappingProxyType({}))
    constants: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    attributes: Mapping[str, Attribute] = field(default_factory=lambda: MappingProxyType({}))
    checks: tuple[Check, ...] = ()


def needed_level(context: Context, unit: NodeUnit, rule: OpRule) -> int:
    """Feature level this unit asks for."""
    return rule.level_of(context, unit) if rule.level_of else rule.level


def apply_rule(context: Context, unit: NodeUnit, rule: OpRule) -> Refusal | None:
    """The first reason to refuse, in the provider's order; None when the unit is taken."""
    return (
        _check_dtypes(context, unit, rule)
        or _check_version(context, unit, rule)
        or _check_ranks(context, unit, rule)
        or _check_attributes(unit, rule)
        or _check_constants(context, unit, rule)
        or next((refusal for check in rule.checks if (refusal := check(context, unit))), None)
    )


def _check_dtypes(context: Context, unit: NodeUnit, rule: OpRule) -> Refusal | None:
    for position, accepted in rule.dtypes.items():
        if unit.has_input(position):
            dtype = context.graph.dtype(unit.input(position).name)
            if dtype not in accepted:
                return Refusal(
                    f"input {position} is {dtype or 'of unknown type'}, expected {' or '.join(accepted)}"
                )
    return None


def _check_version(context: Context, unit: NodeUnit, rule: OpRule) -> Refusal | None:
    version = unit.target.since_version
    if version < rule.min_opset:
        return Refusal(
            f"{unit.op_type} version {version} is too old, needs at least {rule.min_opset}",
            "export at opset 17 (13 to 21 also work)",
        )
    if version > context.max_since_version:
        return Refusal(
            f"{unit.op_type} version {version} is newer than {context.max_since_version}, the newest known",
            "export at opset 17 (13 to 21 also work)",
        )
    return None


def _check_ranks(context: Context, unit: NodeUnit, rule: OpRule) -> Refusal | None:
    for position, (low, high) in rule.ranks.items():
        if not unit.has_input(position):
            continue
        rank = context.graph.rank(unit.input(position).name)
        if rank is None or not low <= rank <= high:
            expected = f"rank {low}" if low == high else f"rank {low} to {high}"
            found = "unknown rank" if rank is None else f"rank {rank}"
            return Refusal(
                f"input {position} has {found}, expected {expected}",
                "merge dimensions with a Reshape so that the rank fits" if rank and rank > high else None,
            )
    return None


def _check_attributes(unit: NodeUnit, rule: OpRule) -> Refusal | None:
    for name, attribute in rule.attributes.items():
        value = unit.target.attributes.get(name, attribute.default)
        value = value.decode() if isinstance(value, bytes) else value
        if value not in attribute.allowed:
            expected = " or ".join(str(choice) for choice in attribute.allowed)
            return Refusal(f"attribute {name} is {value}, expected {expected}")
    return None


def _check_constants(context: Context, unit: NodeUnit, rule: OpRule) -> Refusal | None:
    for position, label in rule.constants.items():
        if unit.has_input(position) and not context.graph.is_constant(unit.input(position).name):
            return Refusal(f"{label} (input {position}) must be a constant", "make it an initializer")
    return None
