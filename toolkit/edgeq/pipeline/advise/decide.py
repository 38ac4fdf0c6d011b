"""What fits a device and what to pick, before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeq.errors import ConfigError, UsageError
from edgeq.exporters.shapes import ModelShape, read_shape
from edgeq.pipeline.advise.memory import Footprint, estimate, has_cost
from edgeq.pipeline.advise.quality import Quality, Tolerance, expected_quality
from edgeq.pipeline.advise.sizes import megabytes
from edgeq.quantize.recipes import BUILT_IN, LayerRef, Recipe, layer_refs, load_recipe, mean_bits_per_weight
from edgeq.targets import get_target

DEFAULT_SHARE = 0.5
"""Part of a device's memory that one app may plan with. Systems end the app that takes much more."""
ENCODER_TOKENS = 512
DECODER_TOKENS = 4096
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked.

    Attributes:
        model: a local folder or a Hub id.
        ram_bytes: the device's memory.
        target: a name of `edgeq.targets`.
        tolerance: of the use.
        context: tokens; the model's own limit up to 512 (encoders) or 4096 (language models) when left out.
        share: part of the memory that the app may use.
        revision: on the Hub.
    """

    model: str
    ram_bytes: int
    target: str = "cpu"
    tolerance: Tolerance = Tolerance.MEDIUM
    context: int | None = None
    share: float = DEFAULT_SHARE
    revision: str | None = None

    @property
    def measured_elsewhere(self) -> bool:
        """The target runs models with a runtime of its own, and the costs are those of ONNX Runtime."""
        return bool(get_target(self.target).own_runtimes)

    @property
    def budget_bytes(self) -> int:
        """What the app may use."""
        return int(self.ram_bytes * self.share)


@dataclass(frozen=True, slots=True)
class Option:
    """One recipe.

    Attributes:
        recipe: its name.
        bits: mean stored bits per weight of all matrices.
        footprint: memory and file.
        download_bytes: the file and the tokenizer.
        quality: class expected.
        reason: for that class.
        fits: whether it stays within the budget.
        tolerated: whether the class is within the tolerance.
        refusal: why the target or the model cannot have it; None where it can.
    """

    recipe: str
    bits: float
    footprint: Footprint
    download_bytes: int
    quality: Quality
    reason: str
    fits: bool
    tolerated: bool
    refusal: str | None

    @property
    def is_possible(self) -> bool:
        """Whether it can be made and run there."""
        return self.fits and self.refusal is None


@dataclass(frozen=True, slots=True)
class Advice:
    """The answer.

    Attributes:
        request: the question.
        shape: of the model.
        tokens: that memory is planned for.
        roles: parameters by role.
        options: every recipe, from most to fewest bits.
        recommended: the recipe to take; None when nothing fits.
        why: in one sentence.
    """

    request: Request
    shape: ModelShape
    tokens: int
    roles: dict[str, int]
    options: tuple[Option, ...]
    recommended: str | None
    why: str

    def to_json(self) -> dict[str, Any]:
        """The document of `edgeq advise --json`."""
        return {
            "model": self.request.model,
            "architecture": self.shape.architecture,
            "parameters": self.shape.parameters,
            "roles": self.roles,
            "target": self.request.target,
            "tolerance": self.request.tolerance.value,
            "context": self.tokens,
            "ram_bytes": self.request.ram_bytes,
            "share": self.request.share,
            "budget_bytes": self.request.budget_bytes,
            "recipes": [_option_json(option) for option in self.options],
            "recommendation": {"recipe": self.recommended, "reason": self.why},
        }


def advise(request: Request) -> Advice:
    """Read the model's config and weigh every built-in recipe.

    Raises:
        ModelError: there is no such model, or its size is not known from its config.
        ConfigError: the context is longer than the model's positions.
        UsageError: an unknown target, or a share that is no part.
    """
    if not 0 < request.share <= 1:
        raise UsageError(f"--share got {request.share:g}, expected a part of the memory, above 0 and up to 1")
    target = get_target(request.target)
    if target.made_from == "checkpoint":
        raise UsageError(
            f"advise weighs recipes that ONNX Runtime runs; target `{target.name}` has file types of its own",
            hint="--target cpu or android",
        )
    shape, folder = read_shape(request.model, request.revision)
    tokens = context_tokens(shape, request.context)
    layers = layer_refs(shape.matrices, shape.tied)
    tokenizer = _tokenizer_bytes(folder)
    options = tuple(
        _weigh(
            request,
            shape,
            layers,
            tokens,
            tokenizer,
            recipe,
            _refusal(target.variants(recipe), shape, recipe),
        )
        for recipe in weighed_recipes()
    )
    recommended, why = recommend(options, shape, request)
    return Advice(request, shape, tokens, _roles(shape, layers), options, recommended, why)


def weighed_recipes() -> list[Recipe]:
    """The built-in recipes whose formats have measured costs: those that ONNX Runtime runs."""
    recipes = map(load_recipe, BUILT_IN)
    return [r for r in recipes if all(has_cost(spec) for spec in r.possible_specs())]


def context_tokens(shape: ModelShape, asked: int | None) -> int:
    """Tokens to plan for.

    Raises:
        ConfigError: more than the model has positions for.
    """
    if asked is None:
        usual = DECODER_TOKENS if shape.causal else ENCODER_TOKENS
        return min(usual, shape.positions or usual)
    if asked < 1 or (shape.positions is not None and asked > shape.positions):
        raise ConfigError(
            f"--context {asked} does not fit: the model has positions for 1 to {shape.positions} tokens",
            hint=f"--context {shape.positions}",
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


def _weigh(
    request: Request,
    shape: ModelShape,
    layers: Sequence[LayerRef],
    tokens: int,
    tokenizer: int,
    recipe: Recipe,
    refusal: str | None,
) -> Option:
    specs = recipe.resolve(layers)
    footprint = estimate(shape, layers, specs, tokens)
    quality, reason = expected_quality(specs, layers, shape.parameters)
    return Option(
        recipe=recipe.name,
        bits=mean_bits_per_weight(specs, layers),
        footprint=footprint,
        download_bytes=footprint.model_file + tokenizer,
        quality=quality,
        reason=reason,
        fits=footprint.ram <= request.budget_bytes,
        tolerated=quality.rank <= request.tolerance.worst.rank,
        refusal=refusal,
    )


def _refusal(variants: Sequence[Any], shape: ModelShape, recipe: Recipe) -> str | None:
    if shape.causal and recipe.default.format == "int8-static":
        return "one static range cannot hold the outliers in a language model's activations; q8 keeps them in float"
    refusals = [variant.refusal for variant in variants]
    return refusals[0] if refusals and all(refusals) else None


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


def _option_json(option: Option) -> dict[str, Any]:
    footprint = option.footprint
    return {
        "recipe": option.recipe,
        "bits_per_weight": round(option.bits, 3),
        "download_bytes": option.download_bytes,
        "ram_bytes": footprint.ram,
        "parts": asdict(footprint),
        "fits": option.fits,
        "quality": option.quality.value,
        "reason": option.reason,
        "tolerated": option.tolerated,
        "refusal": option.refusal,
    }
