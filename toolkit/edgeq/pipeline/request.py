"""Options, as flags and files spell them, to an `ExportRequest`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgeq.comparison import GateRequest, parse_gate
from edgeq.errors import UsageError
from edgeq.pipeline.precision import recipe_named
from edgeq.quantize.formats import Blocks, FileType
from edgeq.quantize.methods import METHODS, Needs
from edgeq.quantize.recipes import Recipe, load_recipe

DEFAULT_CALIB_SAMPLES = 256
DEFAULT_RECIPE = "int8"
DEFAULT_GRAM_SAMPLES = 1024
"""For recipes with GPTQ or AWQ, which need a few tokens per input channel."""


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """Everything an export is asked for; checked before any work.

    Attributes:
        model: folder, Hub id or `.onnx` file; None takes the sample model.
        targets: names.
        recipe: what becomes of each layer.
        calib: calibration data; None takes the built-in texts.
        output: the bundle's folder, or with several targets the folder that holds one bundle each.
        seq_len: tokens of variants with a static shape; with several lengths the longest.
        seq_lens: all of them, for targets that take several; empty for one.
        ios: oldest iOS to run on; None lets the precision decide.
        variants: engines to keep (`cpu`, `nnapi`); empty keeps all.
        sensitivity: measure each quantized layer alone, for `edgeq explain`.
        is_recipe_chosen: the recipe is not just the default; a quantized checkpoint has another default.
        requantize: a checkpoint that is quantized already may be quantized again.
        slim: without golden cases, report and plan, once the bundle has passed with them.
    """

    model: str | None = None
    targets: tuple[str, ...] = ("android",)
    recipe: Recipe = field(default_factory=lambda: load_recipe("int8"))
    calib: str | None = None
    calib_column: str | None = None
    calib_samples: int = DEFAULT_CALIB_SAMPLES
    seq_len: int | None = None
    seq_lens: tuple[int, ...] = ()
    ios: int | None = None
    task: str | None = None
    revision: str | None = None
    gates: tuple[GateRequest, ...] = ()
    output: Path | None = None
    variants: tuple[str, ...] = ()
    archive: bool = False
    force: bool = False
    seed: int = 0
    sensitivity: bool = False
    is_recipe_chosen: bool = False
    requantize: bool = False
    slim: bool = False


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


def parse_gates(texts: Sequence[str]) -> tuple[GateRequest, ...]:
    """`--gate` values; the same metric twice is a contradiction.

    Raises:
        UsageError: see `parse_gate`.
    """
    requests = tuple(parse_gate(text) for text in texts)
    metrics = [request.metric for request in requests]
    if len(set(metrics)) != len(metrics):
        raise UsageError(f"a metric has two gates: {', '.join(texts)}")
    return requests
