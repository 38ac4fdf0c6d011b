"""ONNX Runtime's NNAPI execution provider: which QDQ groups it takes. One row per operator.

Activations are uint8 per tensor; int8 appears only as the weight of Conv, MatMul and Gemm, symmetric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from edgeq.targets.placement import nnapi_checks as check
from edgeq.targets.placement.node_units import NodeUnit, UnitValue, same_quantization
from edgeq.targets.placement.rules import Context, Refusal

GroupCheck: TypeAlias = Callable[[Context, NodeUnit], "Refusal | None"]
UNSIGNED_FIX = check.UNSIGNED_FIX


@dataclass(frozen=True, slots=True)
class GroupRule:
    """When a QDQ group is taken.

    Attributes:
        weighted: input 1 is a constant weight, uint8 or symmetric int8, and input 2 an int32 bias.
        per_channel: int8 weights may have a scale per output channel (dimension 0) at feature level 29.
        checks: the rest.
    """

    weighted: bool = False
    per_channel: bool = False
    checks: tuple[GroupCheck, ...] = ()


def matmul_2d(context: Context, unit: NodeUnit) -> Refusal | None:
    """There is no batched form of a quantized MatMul."""
    ranks = [context.graph.rank(unit.input(position).name) for position in (0, 1)]
    if ranks == [2, 2]:
        return None
    return Refusal(
        f"a quantized MatMul of ranks {ranks[0]} x {ranks[1]}, expected 2-D x 2-D",
        "leave one operand unquantized (no DequantizeLinear) so that it runs as a float batched MatMul; "
        "for a constant weight reshape to 2-D and use Gemm",
    )


def weight_constant(context: Context, unit: NodeUnit) -> Refusal | None:
    """B of MatMul, W of Conv."""
    if context.graph.is_constant(unit.input(1).name):
        return None
    return Refusal("the quantized weight (input 1) must be a constant", "make it an initializer")


def softmax_output(context: Context, unit: NodeUnit) -> Refusal | None:
    """NNAPI SOFTMAX has a fixed output quantization."""
    output = unit.output()
    scale = context.graph.constant(output.scale)
    zero = context.graph.constant(output.zero_point) if output.zero_point else np.zeros(1)
    return check.output_is_256th(scale, zero)


def concat_same_quantization_below_29(context: Context, unit: NodeUnit) -> Refusal | None:
    """Older NNAPI joins bytes, it does not requantize."""
    if context.level >= 29 or all(same_quantization(context.graph, dq, unit.qs[0]) for dq in unit.dqs):
        return None
    return Refusal(
        "inputs have different scales, which needs feature level 29", "use one scale for all inputs"
    )


def same_in_and_out(context: Context, unit: NodeUnit) -> Refusal | None:
    """Pooling keeps the quantization of its input."""
    if unit.qs and same_quantization(context.graph, unit.dqs[0], unit.qs[0]):
        return None
    return Refusal("input and output quantization differ", "use one scale and zero point for both")


NNAPI_GROUP_RULES: Mapping[str, GroupRule] = MappingProxyType(
    {
        "Add": GroupRule(),
        "Mul": GroupRule(),
        "Concat": GroupRule(checks=(concat_same_quantization_below_29,)),
        "Softmax": GroupRule(checks=(softmax_output,)),
        "Reshape": GroupRule(),
        "Transpose": GroupRule(),
        "Resize": GroupRule(),
        "AveragePool": GroupRule(checks=(same_in_and_out,)),
        "MatMul": GroupRule(weighted=True, checks=(matmul_2d, weight_constant)),
        # A constant weight is asked for by the float rule (transB=0); transB=1 is a landmine instead.
        "Gemm": GroupRule(weighted=True),
        "Conv": GroupRule(weighted=True, per_channel=True, checks=(weight_constant,)),
    }
)

GROUP_FIX: Mapping[str, str] = MappingProxyType(
    {
        "Squeeze": "use Reshape, whose quantized form is accepted",
        "Unsqueeze": "use Reshape, whose quantized form is accepted",
        "Flatten": "use Reshape, whose quantized form is accepted",
        "Gather": "remove the QuantizeLinear after the Gather: DequantizeLinear -> Gather alone is accepted",
    }
)
DEFAULT_GROUP_FIX = (
    "remove the QuantizeLinear after it or the DequantizeLinear before it, so that it runs in float"
)


def check_group(context: Context, unit: NodeUnit) -> Refusal | None:
    """The first reason to refuse a QDQ group; the operator's own float rules are checked elsewhere."""
    rule = NNAPI_GROUP_RULES.get(unit.op_type)
    if rule is None:
        return Refusal(
            f"{unit.op_type} between DequantizeLinear and QuantizeLinear is no supported quantized group",
            GROUP_FIX.get(unit.op_type, DEFAULT_GROUP_FIX),
        )
    return _check_values(context, unit, rule) or next(
        (refusal for one in rule.checks if (refusal := one(context, unit))), None
    )


def _check_values(context: Context, unit: NodeUnit, rule: GroupRule) -> Refusal | None:
    for position in range(len(unit.target.inputs)):
        if not unit.has_input(position) or unit.input(position).quantizer is None:
            continue
        value = unit.input(position)
        if rule.weighted and position == 1:
            refusal = _check_weight(context, value, rule)
        elif rule.weighted and position == 2:
            refusal = _check_bias(context, value)
        else:
            refusal = _check_activation(context, value, f"input {position}")
        if refusal:
            return refusal
    quantized = [unit.output(index) for index in range(len(unit.qs))]
    return next((r for value in quantized if (r := _check_activation(context, value, "output"))), None)


def _check_activation(context: Context, value: UnitValue, label: str) -> Refusal | None:
    dtype = context.graph.dtype(value.name)
    if dtype != "uint8":
        return Refusal(f"quantized {label} is {dtype}, expected uint8", UNSIGNED_FIX)
    return _check_params(context, value, label) or _check_scalar(context, value, label)


def _check_params(context: Context, value: UnitValue, label: str) -> Refusal | None:
    for what, name in (("scale", value.scale), ("zero point", value.zero_point)):
        if name and not context.graph.is_constant(name):
            return Refusal(f"the {what} of {label} must be a constant", "make it an initializer")
    return None


def _check_scalar(context: Context, value: UnitValue, label: str) -> Refusal | None:
    count = _count(context, value.scale)
    return (
        None
        if count == 1
        else Refusal(f"{label} is quantized per channel, expected per tensor", UNSIGNED_FIX)
    )


def _check_weight(context: Context, value: UnitValue, rule: GroupRule) -> Refusal | None:
    dtype = context.graph.dtype(value.name)
    if dtype not in ("uint8", "int8"):
        return Refusal(f"weight is {dtype}, expected uint8 or int8", "quantize weights to 8 bits per tensor")
    if refusal := _check_params(context, value, "the weight"):
        return refusal
    zero = context.graph.constant(value.zero_point) if value.zero_point else None
    if dtype == "int8" and zero is not None and (zero.dtype != np.int8 or zero.any()):
        return Refusal("int8 weights need an int8 zero point of 0", "quantize weights symmetrically")
    return _check_granularity(context, value, rule, dtype)


def _check_granularity(context: Context, value: UnitValue, rule: GroupRule, dtype: str) -> Refusal | None:
    count = _count(context, value.scale)
    if count == 1:
        return None
    rows = (context.graph.static_shape(value.name) or (None,))[0]
    if rule.per_channel and dtype == "int8" and count == rows and context.level >= 29:
        return None
    if is_disguised_per_channel(context, value, rule):
        return None  # the provider lets it pass and fails later: landmine L4
    return Refusal(f"weight has {count} scales, expected one per tensor", "quantize weights per tensor")


def is_disguised_per_channel(context: Context, value: UnitValue, rule: GroupRule) -> bool:
    """A Gemm weight with as many scales as rows passes a check that was meant for Conv."""
    if not rule.weighted or rule.per_channel or rule.checks or context.level < 29:
        return False
    rows = (context.graph.static_shape(value.name) or (None,))[0]
    return context.graph.dtype(value.name) == "int8" and _count(context, value.scale) == rows != 1


def _check_bias(context: Context, value: UnitValue) -> Refusal | None:
    return None if context.graph.is_constant(value.name) else Refusal("the bias must be a constant")


def _count(context: Context, name: str) -> int:
    shape = context.graph.static_shape(name) or ()
    return int(np.prod(shape, dtype=np.int64))
