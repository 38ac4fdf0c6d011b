"""What fits a device and what to pick, before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edgeq.errors import ConfigError, EdgeqError, UnsupportedError, UsageError
from edgeq.exporters import inspect_model
from edgeq.exporters.causal_lm.text_part import text_config
from edgeq.exporters.facts import read_config
from edgeq.exporters.shapes import read_shape
from edgeq.families.model_shape import ModelShape
from edgeq.families.positions import constant_positions, rope_type
from edgeq.pipeline.advise.advice import Advice, Option, Request
from edgeq.pipeline.advise.memory import Footprint, estimate, file_footprint, has_cost
from edgeq.pipeline.advise.quality import expected_quality
from edgeq.pipeline.advise.sizes import megabytes
from edgeq.pipeline.generation.recipe import for_language_models
from edgeq.pipeline.stored import is_stored
from edgeq.quantize.recipes import BUILT_IN, LayerRef, Recipe, layer_refs, load_recipe, mean_bits_per_weight
from edgeq.targets import get_target
from edgeq.tasks import is_autoregressive

if TYPE_CHECKING:
    from edgeq.targets.target import CheckpointTarget, Target, VariantSpec

ENGINE = "cpu"
"""Of the variants that run language models."""
ENCODER_TOKENS = 512
DECODER_TOKENS = 4096
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)


def advise(request: Request) -> Advice:
    """Read the model's config and weigh the built-in recipes whose costs are known.

    Raises:
        ModelError: there is no such model, or its size is not known from its config.
        ConfigError: the context is longer than the model's positions.
        UsageError: an unknown target, or a share that is no part.
    """
    if not 0 < request.share <= 1:
        raise UsageError(f"--share got {request.share:g}, expected a part of the memory, above 0 and up to 1")
    target = get_target(request.target)
    shape, folder = read_shape(request.model, request.revision)
    whole = read_config(folder)
    # Of a checkpoint of images and text the language model is what is exported.
    config = text_config(whole) or whole
    constant = constant_positions(config) if shape.causal else None
    tokens = context_tokens(shape, request.context, constant)
    layers = layer_refs(shape.matrices, shape.tied)
    question = _Question(request, shape, layers, tokens, _tokenizer_bytes(folder), target, config)
    refusal = model_refusal(request, target, config)
    options = tuple(question.weigh(recipe, refusal) for recipe in weighed_recipes())
    recommended, why = (
        recommend(options, shape, request)
        if refusal is None
        else (None, f"export refuses the model: {refusal}")
    )
    seq_len = None if constant is None or constant >= (shape.positions or constant) else constant
    return Advice(
        request, shape, tokens, _roles(shape, layers), options, recommended, why, seq_len, refusal is not None,
        not_weighed_recipes(target) if refusal is None else (),
    )  # fmt: skip


def model_refusal(request: Request, target: Target, config: Mapping[str, Any]) -> str | None:
    """Why no recipe can be exported of this model for this target; None where some can."""
    facts = inspect_model(request.model, revision=request.revision)
    if facts.refusal is not None:
        return facts.refusal.message
    is_language_model = is_autoregressive(facts.task)
    if target.made_from == "checkpoint":
        if not is_language_model:
            return f"target `{target.name}` takes language models alone"
        try:
            cast("CheckpointTarget", target).check_family(str(config["model_type"]), rope_type(config))
        except EdgeqError as error:
            return error.message
        return None
    if is_language_model and all(
        spec.engine != ENGINE for recipe in weighed_recipes() for spec in target.variants(recipe)
    ):
        return f"target `{target.name}` does not take language models"
    return None


def weighed_recipes() -> list[Recipe]:
    """The built-in recipes whose formats have measured costs: those that ONNX Runtime runs."""
    recipes = map(load_recipe, BUILT_IN)
    return [r for r in recipes if all(has_cost(spec) for spec in r.possible_specs())]


def not_weighed_recipes(target: Target) -> tuple[str, ...]:
    """Names of the others that a target makes of a float model."""
    weighed = {recipe.name for recipe in weighed_recipes()}
    others = [load_recipe(name) for name in BUILT_IN if name not in weighed]
    return tuple(
        recipe.name
        for recipe in others
        if not is_stored(recipe) and any(spec.refusal is None for spec in target.variants(recipe))
    )


def context_tokens(shape: ModelShape, asked: int | None, constant: int | None = None) -> int:
    """Tokens to plan for.

    Args:
        shape: of the model.
        asked: on the command line.
        constant: up to where its rotary positions can be exported; None for all of its context.

    Raises:
        ConfigError: more than the model has positions for.
    """
    positions = min((limit for limit in (shape.positions, constant) if limit is not None), default=None)
    if asked is None:
        usual = DECODER_TOKENS if shape.causal else ENCODER_TOKENS
        return min(usual, positions or usual)
    if asked < 1 or (positions is not None and asked > positions):
        raise ConfigError(
            f"--context {asked} does not fit: the model has positions for 1 to {positions} tokens",
            hint=f"--context {positions}",
        )
    return asked


def recommend(options: Sequence[Option], shape: ModelShape, request: Request) -> tuple[str | None, str]:
    """The recipe to take and why: what is fast for the kind of model first, then the smallest within the tolerance."""
    possible = [option for option in options if option.is_possible]
    budget = megabytes(request.budget_bytes)
    if not possible:
        least = min((o for o in options if o.refusal is None), key=lambda o: o.footprint.ram, default=None)
        need = (
            f"{least.recipe} needs least, {megabytes(least.footprint.ram)}"
            if least
            else "the target takes no recipe"
        )
        return None, f"nothing fits {budget}: {need}"
    tolerated = [option for option in possible if option.tolerated]
    if not tolerated:
        best = min(possible, key=lambda o: (o.quality.rank, -o.bits))
        return best.recipe, (
            f"nothing within tolerance {request.tolerance} fits {budget}; this is the best that does: {best.quality}"
        )
    fast = next((o for o in tolerated if o.recipe == "int8"), None)
    if fast is not None and not shape.causal:
        return fast.recipe, f"{fast.quality}, and integer arithmetic is the fastest for whole texts"
    least = min(tolerated, key=lambda o: (o.download_bytes, o.quality.rank))
    return least.recipe, (
        f"the smallest that is {request.tolerance.worst} or better"
        + (", and tokens per second grow as bytes shrink" if shape.causal else "")
    )


@dataclass(frozen=True, slots=True)
class _Question:
    """What every recipe is weighed for.

    Attributes:
        request: the question.
        shape: of the model.
        layers: its matrices.
        tokens: that memory is planned for.
        tokenizer: bytes of its file.
        target: of the request.
        config: of the model.
    """

    request: Request
    shape: ModelShape
    layers: Sequence[LayerRef]
    tokens: int
    tokenizer: int
    target: Target
    config: Mapping[str, Any]

    def weigh(self, built_in: Recipe, refusal: str | None) -> Option:
        """One recipe, as the export would carry it out."""
        recipe = built_in
        variants = self.target.variants(recipe)
        refused = [variant.refusal for variant in variants]
        refusal = refusal or (refused[0] if refused and all(refused) else None)
        is_file = self.target.made_from == "checkpoint"
        if self.shape.causal:
            try:
                recipe = for_language_models(built_in)
            except UnsupportedError as error:
                refusal = refusal or error.message
        specs = recipe.resolve(self.layers)
        footprint = estimate(self.shape, self.layers, specs, self.tokens)
        bits = mean_bits_per_weight(specs, self.layers)
        if is_file and refusal is None:
            footprint, bits = self._of_file(variants[0])
        quality, reason = expected_quality(specs, self.layers, self.shape.parameters)
        return Option(
            recipe=recipe.name,
            bits=bits,
            footprint=footprint,
            download_bytes=footprint.model_file + self.tokenizer,
            quality=quality,
            reason=reason,
            fits=footprint.ram <= self.request.budget_bytes,
            tolerated=quality.rank <= self.request.tolerance.worst.rank,
            refusal=refusal,
        )

    def _of_file(self, variant: VariantSpec) -> tuple[Footprint, float]:
        """Footprint and bits per weight of a file type, by the sizes of its tensors."""
        target = cast("CheckpointTarget", self.target)
        matrices = {f"{layer.name}.weight": layer.shape[::-1] for layer in self.layers}
        size = target.stored_bytes(variant, self.config, matrices)
        bits = 8 * size / sum(rows * columns for rows, columns in matrices.values())
        return file_footprint(self.shape, size, self.tokens, target.cache_bytes_per_value), bits


def _roles(shape: ModelShape, layers: Sequence[LayerRef]) -> dict[str, int]:
    """Parameters by role in model order, vectors last."""
    found: dict[str, int] = {}
    for layer in layers:
        found[layer.role] = found.get(layer.role, 0) + layer.shape[0] * layer.shape[1]
    return {**found, "norms and biases": shape.vectors}


def _tokenizer_bytes(folder: Path) -> int:
    """The first file that is there; bundles ship one."""
    sizes = (folder / name for name in TOKENIZER_FILES)
    return next((path.stat().st_size for path in sizes if path.is_file()), 0)
