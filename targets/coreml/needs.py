"""The oldest iOS that a recipe needs, known before a model is loaded, and that a plan needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeq.targets.coreml.decisions import (
    Codes,
    Int4Weight,
    Int8Weight,
    PaletteWeight,
    WeightDecision,
    minimum_ios,
)

if TYPE_CHECKING:
    from edgeq.quantize.recipes import LayerSpec, Recipe
    from edgeq.targets.coreml.plan import PlannedGraph

TOKEN_INPUTS = 2
"""Token ids and an attention mask: what a text encoder takes at least."""


def recipe_decisions(recipe: Recipe) -> tuple[list[WeightDecision], bool]:
    """A decision of every kind a recipe can lead to, and whether activations are quantized."""
    specs = recipe.possible_specs()
    weights = [_decision(spec) for spec in specs if spec.format in ("weight-only", "palette")]
    return weights, any(spec.format == "int8-static" for spec in specs)


def _decision(spec: LayerSpec) -> WeightDecision:
    """One of the same form, its codes left out."""
    if spec.format == "palette":
        return PaletteWeight(spec.bits, None if spec.block_size == -1 else spec.block_size)
    if spec.bits == 4:
        return Int4Weight()
    blocks = 1 if spec.block_size == -1 else 2
    return Int8Weight(codes=Codes(np.zeros((1, 2), np.int8), np.ones((1, blocks), np.float32)))


def oldest_ios(planned: PlannedGraph, lengths: tuple[int, ...]) -> int:
    """The oldest iOS for a planned graph at some sequence lengths."""
    weights, inputs = planned.weights.values(), len(planned.model.graph.inputs)
    return minimum_ios(weights, bool(planned.activations), lengths, inputs)[0]
