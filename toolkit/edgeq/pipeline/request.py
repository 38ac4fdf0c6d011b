"""Options, as flags and files spell them, to an `ExportRequest`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgeq.errors import UsageError
from edgeq.pipeline.export import DEFAULT_CALIB_SAMPLES, ExportRequest, parse_gates
from edgeq.pipeline.precision import recipe_named
from edgeq.quantize.formats import Blocks, FileType
from edgeq.quantize.methods import METHODS, Needs
from edgeq.quantize.recipes import Recipe, load_recipe

DEFAULT_RECIPE = "int8"
DEFAULT_GRAM_SAMPLES = 1024
"""For recipes with GPTQ or AWQ, which need a few tokens per input channel."""


def request_from(options: Mapping[str, Any], *, archive: bool, force: bool) -> ExportRequest:
    """Build the request; flags win over the recipe file.

    Raises:
        UsageError: a flag's value is not known.
        ConfigError: the recipe file is not one.
    """
    if options.get("recipe") is not None and options.get("precision") is not None:
        raise UsageError("--precision and --recipe contradict each other: a recipe names its precision")
    if options.get("slim") and options.get("sensitivity"):
        raise UsageError(
            "--slim leaves out what --sensitivity measures",
            hint="export with --sensitivity, then edgeq pack --drop-goldens --drop-report",
        )
    recipe = _recipe(options)
    merged = {**_export_options(recipe), **options}
    lengths = _lengths(merged.get("seq_len"))
    return ExportRequest(
        model=merged.get("model"),
        targets=tuple(_list(merged.get("target"), ("android",))),
        recipe=recipe,
        calib=merged.get("calib"),
        calib_column=merged.get("calib_column"),
        calib_samples=int(merged.get("calib_samples", default_samples(recipe))),
        seq_len=max(lengths, default=None),
        seq_lens=lengths,
        ios=merged.get("ios"),
        task=merged.get("task"),
        revision=merged.get("revision"),
        gates=parse_gates(_list(merged.get("gate"), ())),
        output=Path(merged["output"]) if merged.get("output") is not None else None,
        variants=tuple(_names(merged.get("variants"))),
        archive=archive,
        force=force,
        seed=int(merged.get("seed", 0)),
        sensitivity=bool(merged.get("sensitivity", False)),
        is_recipe_chosen=options.get("recipe") is not None or options.get("precision") is not None,
        requantize=bool(merged.get("requantize", False)),
        slim=bool(merged.get("slim", False)),
    )


def _recipe(options: Mapping[str, Any]) -> Recipe:
    if options.get("recipe") is not None:
        return load_recipe(Path(options["recipe"]))
    return recipe_named(str(options.get("precision") or DEFAULT_RECIPE))


def default_samples(recipe: Recipe) -> int:
    """How many samples calibrate when nobody says."""
    specs = [spec for spec in recipe.possible_specs() if isinstance(spec.storage, Blocks | FileType)]
    has_gram = any(METHODS[spec.method].needs is Needs.GRAM for spec in specs)
    return DEFAULT_GRAM_SAMPLES if has_gram else DEFAULT_CALIB_SAMPLES


def _export_options(recipe: Recipe) -> dict[str, Any]:
    """Options that a bundle's recipe.yaml repeats."""
    return {name: value for name, value in asdict(recipe.export).items() if value is not None}


def _lengths(value: Any) -> tuple[int, ...]:
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


def _list(value: Any, default: tuple[str, ...]) -> list[str]:
    if value is None:
        return list(default)
    return [value] if isinstance(value, str) else [str(item) for item in value]


def _names(value: Any) -> list[str]:
    return [name.strip() for item in _list(value, ()) for name in item.split(",") if name.strip()]
