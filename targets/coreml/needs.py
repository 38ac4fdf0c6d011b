"""The oldest iOS that a recipe needs, known before a model is loaded, and that a plan needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeq.quantize.formats import PER_CHANNEL, Blocks, Palette, StaticInt8
from edgeq.quantize.weight_only.palette import group_rows_of
from edgeq.targets.coreml.decisions import (
    Codes,
    Int4Weight,
    Int8Weight,
    PaletteWeight,
    WeightDecision,
    minimum_ios,
)

if TYPE_CHECKING:
    from edgeq.quantize.recipes import Recipe
    from edgeq.targets.coreml.plan import PlannedGraph

TOKEN_INPUTS = 2
"""Token ids and an attention mask: what a text encoder takes at least."""


def recipe_decisions(recipe: Recipe) -> tuple[list[WeightDecision], bool]:
    """A decision of every kind a recipe can lead to, and whether activations are quantized."""
    storages = [spec.storage for spec in recipe.possible_specs()]
    weights = [_decision(storage) for storage in storages if isinstance(storage, Blocks | Palette)]
    return weights, any(isinstance(storage, StaticInt8) for storage in storages)


def _decision(storage: Blocks | Palette) -> WeightDecision:
    """One of the same form, its codes left out."""
    if isinstance(storage, Palette):
        return PaletteWeight(storage.bits, group_rows_of(storage))
    if storage.bits == 4:
        return Int4Weight()
    blocks = 1 if storage.block_size == PER_CHANNEL else 2
    return Int8Weight(codes=Codes(np.zeros((1, 2), np.int8), np.ones((1, blocks), np.float32)))


def oldest_ios(planned: PlannedGraph, lengths: tuple[int, ...]) -> int:
    """The oldest iOS for a planned graph at some sequence lengths."""
    weights, inputs = planned.weights.values(), len(planned.model.graph.inputs)
    return minimum_ios(weights, bool(planned.activations), lengths, inputs)[0]
