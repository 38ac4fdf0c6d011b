"""Patterns of stock ONNX exports, written back as the operator they spell out: LayerNormalization and Gelu."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from edgeq.graph.passes.in_place import in_place

if TYPE_CHECKING:
    import onnx_ir as ir


EXACT, HALF = 1e-5, 1e-3
"""How far the constants of a pattern may be from it, relatively: half precision has 11 bits of the root of 2."""


@in_place
def fuse_spelled_out(model: ir.Model, tolerance: float = EXACT) -> bool:
    """Put operators together that a file spells out.

    A model exported for an opset below 17 has no LayerNormalization, below 20 no Gelu.

    Args:
        model: of the canonical opset.
        tolerance: `EXACT`, or `HALF` for a file whose constants were rounded to half precision.
    """
    from onnx_ir.passes.common import ShapeInferencePass
    from onnxscript.rewriter import pattern
    from onnxscript.rewriter.rules.fusion._layer_norm import layer_normalization_ruleset

    _write_defaults(model)
    gelu = pattern.RewriteRuleSet(
        [_gelu_rule(shape, tolerance) for shape in (_gelu_outer, _gelu_inner, _gelu_left)], commute=True
    )
    count: int = gelu.apply_to_model(model)
    # The rules for LayerNormalization ask for the type of what they normalize.
    ShapeInferencePass()(model)
    return count + int(layer_normalization_ruleset.apply_to_model(model)) > 0


def _write_defaults(model: ir.Model) -> None:
    """State `keepdims`, which the patterns compare, where a file relies on its default."""
    import onnx_ir as ir

    for node in model.graph:
        if node.op_type == "ReduceMean" and "keepdims" not in node.attributes:
            node.attributes["keepdims"] = ir.AttrInt64("keepdims", 1)


def _gelu_rule(shape: Any, tolerance: float) -> Any:
    from onnxscript.rewriter import pattern

    root = pattern.Constant(math.sqrt(2), rel_tol=tolerance)
    return pattern.RewriteRule(
        lambda op, x: shape(x, op.Erf(x / root) + 1.0), lambda op, x: op.Gelu(x, approximate="none")
    )


def _gelu_outer(x: Any, shifted: Any) -> Any:
    """0.5 (x (1 + erf(x / sqrt 2)))."""
    return 0.5 * (x * shifted)


def _gelu_inner(x: Any, shifted: Any) -> Any:
    """X (0.5 (1 + erf(x / sqrt 2)))."""
    return x * (0.5 * shifted)


def _gelu_left(x: Any, shifted: Any) -> Any:
    """(0.5 x) (1 + erf(x / sqrt 2))."""
    return (0.5 * x) * shifted
