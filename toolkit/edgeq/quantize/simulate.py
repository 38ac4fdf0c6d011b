"""The plan as a float graph's QDQ twin: what the search evaluates, and what every target is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgeq.graph.static_weight import StaticWeight
from edgeq.quantize.plan import QuantizationPlan

if TYPE_CHECKING:
    import onnx_ir as ir


def simulate(equalized: ir.Model, plan: QuantizationPlan, weights: Mapping[str, StaticWeight]) -> ir.Model:
    """Quantize the inputs and weights of the planned layers; embeddings and everything else stay in float.

    Args:
        equalized: the canonical graph after the plan's equalizations.
        plan: the decisions.
        weights: codes by initializer; what is not there is rounded to nearest.
    """
    from edgeq.graph.passes.sequence import edited
    from edgeq.graph.passes.static_qdq import LinearQDQ, quantize_linears

    linears = [
        LinearQDQ(item.name, item.input_range, item.bias_shift) for item in plan.linears if item.quantized
    ]
    return edited(equalized, quantize_linears(linears, weights))
