"""edgeq's plans and quantized weights as Core ML decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.graph.static_weight import StaticWeight
from edgeq.quantize.plan import LinearDecision, QuantizationPlan
from edgeq.quantize.sites import find_sites
from edgeq.quantize.weight_only.quantized_weight import QuantizedWeight
from edgeq.targets.coreml.decisions import ActivationQuant, Codes, Int4Weight, Int8Weight, WeightDecision

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, slots=True, eq=False)
class PlannedGraph:
    """What `lower_to_mil` needs to carry out a static int8 plan.

    Attributes:
        model: the equalized graph with the plan's bias shifts added.
        weights: decision per initializer name.
        activations: static quantization per linear node name.
    """

    model: ir.Model
    weights: dict[str, WeightDecision]
    activations: dict[str, ActivationQuant]


def from_static_plan(
    equalized: ir.Model, plan: QuantizationPlan, static: Mapping[str, StaticWeight]
) -> PlannedGraph:
    """W8A8: int8 inputs and per-channel int8 weights of the planned layers, int8 embedding tables.

    Args:
        equalized: the canonical graph after the plan's equalizations.
        plan: decided on that graph.
        static: codes of the planned layers, by initializer; what is not there is rounded to nearest.
    """
    sites = find_sites(equalized)
    planned = {item.name: item for item in plan.linears if item.quantized}
    tables = {item.name for item in plan.embeddings if item.quantized}
    weights: dict[str, WeightDecision] = {
        site.weight: Int8Weight(codes=_codes(static.get(site.weight)))
        for site in sites.linears
        if site.name in planned
    }
    weights |= {site.table: Int8Weight() for site in sites.embeddings if site.name in tables}
    activations = {name: ActivationQuant.from_range(*item.input_range) for name, item in planned.items()}
    return PlannedGraph(_shift_biases(equalized, list(planned.values())), weights, activations)


def _codes(weight: StaticWeight | None) -> Codes | None:
    """Output channels as rows."""
    return None if weight is None else Codes(np.ascontiguousarray(weight.codes.T), weight.scale[:, None])


def _shift_biases(model: ir.Model, decisions: list[LinearDecision]) -> ir.Model:
    from edgeq.graph.passes.sequence import edited
    from edgeq.graph.passes.shift_biases import shift_biases

    shifts = {item.name: item.bias_shift for item in decisions if item.bias_shift is not None}
    return edited(model, shift_biases(shifts)) if shifts else model


def from_quantized_weight(weight: QuantizedWeight) -> Int8Weight | Int4Weight:
    """A weight-only quantizer's result: the same codes, signed as Core ML stores them.

    Works for tables too, when they were quantized as `[columns, rows]`.

    Raises:
        UnsupportedError: the last block of a row is padded, which MIL's block layout has no form for.
    """
    if weight.offsets is not None:
        raise UnsupportedError("Core ML has no weights whose blocks have an offset of their own")
    if weight.input_order is not None:
        raise UnsupportedError("a weight with its inputs in another order is not lowered to Core ML")
    rows, blocks, width = weight.q.shape
    if blocks * width != weight.in_features:
        raise UnsupportedError(
            f"{weight.in_features} columns in blocks of {width} leave a padded block; "
            "Core ML needs a block size that divides them",
            hint="choose a smaller block size, or one scale per channel",
        )
    middle = np.int16(weight.spec.middle)
    values = (weight.q.astype(np.int16) - middle).astype(np.int8).reshape(rows, weight.in_features)
    zero = (
        None if weight.zero_points is None else (weight.zero_points.astype(np.int16) - middle).astype(np.int8)
    )
    codes = Codes(values, weight.scales, zero)
    if weight.spec.bits == 8:
        return Int8Weight(weight.input_scales, codes)
    return Int4Weight(width, weight.input_scales, codes)
