"""Recipes: which layer gets which format and how many bits, as readable data.

`load_recipe("q4_k_m").resolve(layer_refs(...))` gives a `LayerSpec` per layer. The data is in the YAML files
of this folder; docs/recipes.md explains them.
"""

from __future__ import annotations

from edgeq.quantize.recipes.load import BUILT_IN, load_recipe, parse_recipe
from edgeq.quantize.recipes.schema import LayerRef, LayerSpec, Recipe, layer_refs, mean_bits_per_weight

__all__ = [
    "BUILT_IN",
    "LayerRef",
    "LayerSpec",
    "Recipe",
    "layer_refs",
    "load_recipe",
    "mean_bits_per_weight",
    "parse_recipe",
]
