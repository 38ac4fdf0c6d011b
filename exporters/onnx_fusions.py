"""Patterns of stock ONNX exports, written back as the operator they spell out: LayerNormalization and Gelu."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir as ir


def fuse_spelled_out(model: ir.Model) -> int:
    """Fuse in place; returns how many operators were put together.

    A model exported for an opset below 17 has no LayerNormalization, below 20 no Gelu.
    """
    from onnx_ir.passes.common import ShapeInferencePass
    from onnxscript.rewriter import pattern
    from onnxscript.rewriter.rules.fusion._layer_norm import layer_normalization_ruleset

    _write_defaults(model)
    gelu = pattern.RewriteRuleSet(
        [_gelu_rule(shape) for shape in (_gelu_outer, _gelu_inner, _gelu_left)], commute=True
    )
    count: int = gelu.apply_to_model(model)
    # The rules for LayerNormalization ask for the type of what they normalize.
    ShapeInferencePass()(model)
    return count + int(layer_normalization_ruleset.apply_to_model(model))


def _write_defaults(model: ir.Model) -> None:
    """State `keepdims`, which the patterns compare, where a file relies on its default."""
    import onnx_ir as ir

    for node in model.graph:
        if node.op_type == "ReduceMean" and "keepdims" not in node.attributes:
            node.attributes["keepdims"] = ir.AttrInt64("keepdims", 1)


def _gelu_rule(shape: Any) -> Any:
    from onnxscript.rewriter import pattern

    return pattern.RewriteRule(shape, lambda op, x: op.Gelu(x, approximate="none"))


def _gelu_outer(op: Any, x: Any) -> Any:
    """0.5 (x (1 + erf(x / sqrt 2)))."""
    return 0.5 * (x * (op.Erf(x / math.sqrt(2)) + 1.0))


def _gelu_inner(op: Any, x: Any) -> Any:
    """X (0.5 (1 + erf(x / sqrt 2)))."""
    return x * (0.5 * (op.Erf(x / math.sqrt(2)) + 1.0))


def _gelu_left(op: Any, x: Any) -> Any:
    """(0.5 x) (1 + erf(x / sqrt 2))."""
    return (0.5 * x) * (op.Erf(x / math.sqrt(2)) + 1.0)
