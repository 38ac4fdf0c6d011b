"""What an export is asked for: options as users give them, read into an `ExportRequest`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from edgeq.comparison import GateRequest, parse_gate
from edgeq.errors import UsageError
from edgeq.pipeline.options import ExportOptions
from edgeq.pipeline.precision import recipe_named
from edgeq.quantize.formats import Blocks, FileType
from edgeq.quantize.methods import METHODS, Needs
from edgeq.quantize.recipes import Recipe, load_recipe

DEFAULT_RECIPE = "int8"
DEFAULT_CALIB_SAMPLES = 256
DEFAULT_GRAM_SAMPLES = 1024
"""For recipes with GPTQ or AWQ, which need a few tokens per input channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest(ExportOptions):
    """Everything an export is asked for; checked before any work.

    Attributes:
        target: names.
        recipe: what becomes of each layer.
        seq_len: tokens of variants with a static shape; with several lengths the longest.
        seq_lens: all of them, for targets that take several; empty for one.
        variants: engines to keep (`cpu`, `nnapi`); empty keeps all.
        is_recipe_chosen: the recipe is not just the default; a quantized checkpoint has another default.
    """

    model: str | None = None
    target: tuple[str, ...] = ("android",)
    recipe: Recipe = field(default_factory=lambda: load_recipe(DEFAULT_RECIPE))
    calib: str | None = None
    calib_samples: int = DEFAULT_CALIB_SAMPLES
    seq_len: int | None = None
    seq_lens: tuple[int, ...] = ()
    gates: tuple[GateRequest, ...] = ()
    output: Path | None = None
    variants: tuple[str, ...] = ()
    seed: int = 0
    is_recipe_chosen: bool = False


def request_from(options: ExportOptions) -> ExportRequest:
    """Read the options; they win over the recipe file's.

    Raises:
        UsageError: an option's value is not known, or contradicts another.
        ConfigError: the recipe file is not one.
    """
    if options.recipe is not None and options.precision is not None:
        raise UsageError("--precision and --recipe contradict each other: a recipe names its precision")
    if options.slim and options.sensitivity:
        raise UsageError(
            "--slim leaves out what --sensitivity measures",
            hint="export with --sensitivity, then edgeq pack --drop-goldens --drop-report",
        )
    recipe = _recipe(options)
    wanted = _filled(options, recipe)
    lengths = _lengths(wanted.seq_len)
    read: dict[str, Any] = {
        "model": None if wanted.model is None else str(wanted.model),
        "target": tuple(_texts(wanted.target)),
        "recipe": recipe,
        "calib": None if wanted.calib is None else str(wanted.calib),
        "calib_samples": default_samples(recipe) if wanted.calib_samples is None else wanted.calib_samples,
        "seq_len": max(lengths, default=None),
        "seq_lens": lengths,
        "gates": parse_gates(wanted.gates),
        "output": None if wanted.output is None else Path(wanted.output),
        "variants": tuple(_names(wanted.variants)),
        "seed": wanted.seed or 0,
        "is_recipe_chosen": options.recipe is not None or options.precision is not None,
    }
    as_given = {item.name: getattr(wanted, item.name) for item in fields(ExportOptions)}
    return ExportRequest(**as_given | read)


def _recipe(options: ExportOptions) -> Recipe:
    if isinstance(options.recipe, Recipe):
        return options.recipe
    if options.recipe is not None:
        return load_recipe(Path(options.recipe))
    return recipe_named(options.precision or DEFAULT_RECIPE)


def default_samples(recipe: Recipe) -> int:
    """How many samples calibrate when nobody says."""
    specs = [spec for spec in recipe.possible_specs() if isinstance(spec.storage, Blocks | FileType)]
    has_gram = any(METHODS[spec.method].needs is Needs.GRAM for spec in specs)
    return DEFAULT_GRAM_SAMPLES if has_gram else DEFAULT_CALIB_SAMPLES


def _filled(options: ExportOptions, recipe: Recipe) -> ExportOptions:
    """With those that a bundle's recipe.yaml repeats, where nothing else was said."""
    repeated = {
        name: value
        for name, value in asdict(recipe.export).items()
        if value is not None and getattr(options, name) is None
    }
    return replace(options, **repeated)


def _lengths(value: int | str | Sequence[int] | None) -> tuple[int, ...]:
    """Sequence lengths, ascending: one number, a list, or as `--seq-len 32,128,256` spells them."""
    if value is None:
        return ()
    items = value.split(",") if isinstance(value, str) else [value] if isinstance(value, int) else value
    try:
        lengths = sorted({int(item) for item in items})
    except (TypeError, ValueError):
        lengths = []
    if not lengths or lengths[0] < 1:
        raise UsageError(f"`{value}` is no sequence length", hint="--seq-len 128, or --seq-len 32,128,256")
    return tuple(lengths)


def parse_gates(given: str | Sequence[str | GateRequest]) -> tuple[GateRequest, ...]:
    """`--gate` values, where they are not read yet; the same metric twice is a contradiction.

    Raises:
        UsageError: see `parse_gate`.
    """
    items = [given] if isinstance(given, str) else given
    requests = tuple(item if isinstance(item, GateRequest) else parse_gate(str(item)) for item in items)
    metrics = [request.metric for request in requests]
    if len(set(metrics)) != len(metrics):
        raise UsageError(f"a metric has two gates: {', '.join(map(str, items))}")
    return requests


def _texts(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else [str(item) for item in value]


def _names(value: str | Sequence[str]) -> list[str]:
    return [name.strip() for item in _texts(value) for name in item.split(",") if name.strip()]
