"""What recipes mean for a language model: `int8` is 8-bit weights, and static activations are refused."""

from __future__ import annotations

from dataclasses import replace

from edgeq.errors import UnsupportedError
from edgeq.quantize.formats import StaticInt8
from edgeq.quantize.recipes import Recipe, load_recipe

INT8_BLOCK = 16
"""Of `int8` of a language model, with GPTQ: half the KL divergence of recipe q8 (blocks of 32, rounded) for half a bit
more per weight (benchmarks/lm_quality.py)."""
INT8_NOTICE = (
    "int8 of a language model is weight-only: 8 bits in blocks of 16, "
    "activations rounded to int8 as they come"
)


def is_plain_int8(recipe: Recipe) -> bool:
    """Whether it is the built-in `int8`, which language models have in a form of their own."""
    return recipe.name == "int8" and recipe == load_recipe("int8")


def for_language_models(recipe: Recipe) -> Recipe:
    """The recipe as language models are quantized.

    Raises:
        UnsupportedError: the recipe wants static int8 activations.
    """
    if is_plain_int8(recipe):
        q8 = load_recipe("q8")
        return replace(q8, name="int8", default=replace(q8.default, block_size=INT8_BLOCK, method="gptq"))
    static = [spec for spec in recipe.possible_specs() if isinstance(spec.storage, StaticInt8)]
    if static:
        raise UnsupportedError(
            f"recipe `{recipe.name}` wants static int8 activations, which are not built for language models",
            hint="--precision int8 (8-bit weights), int4, q4_k_m, q8, fp16 or fp32",
        )
    return recipe
