"""Options, as flags and files spell them, to an `ExportRequest`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeq.config import check_keys, read_yaml
from edgeq.errors import ConfigError, UsageError
from edgeq.pipeline.export import DEFAULT_CALIB_SAMPLES, ExportRequest, parse_gates
from edgeq.pipeline.precision import parse_precision
from edgeq.quantize.static_int8 import StaticInt8Settings
from edgeq.types import Precision

RECIPE_KEYS = ("precision", "seq_len", "seed", "calibration", "static_int8")
STATIC_INT8_KEYS = ("alpha", "range_method", "bias_correction", "exclude", "embeddings")


def request_from(options: Mapping[str, Any], *, archive: bool, force: bool) -> ExportRequest:
    """Build the request; flags win over the recipe file.

    Raises:
        UsageError: a flag's value is not known.
        ConfigError: the recipe file is not one.
    """
    if options.get("recipe") is not None and options.get("precision") is not None:
        raise UsageError("--precision and --recipe contradict each other: a recipe names its precision")
    recipe = _recipe(Path(options["recipe"])) if options.get("recipe") is not None else {}
    merged = {**recipe, **options}
    return ExportRequest(
        model=merged.get("model"),
        targets=tuple(_list(merged.get("target"), ("android",))),
        precision=parse_precision(str(merged.get("precision", Precision.INT8))),
        calib=merged.get("calib"),
        calib_column=merged.get("calib_column"),
        calib_samples=int(merged.get("calib_samples", DEFAULT_CALIB_SAMPLES)),
        seq_len=merged.get("seq_len"),
        task=merged.get("task"),
        revision=merged.get("revision"),
        gates=parse_gates(_list(merged.get("gate"), ())),
        output=Path(merged["output"]) if merged.get("output") is not None else None,
        variants=tuple(_names(merged.get("variants"))),
        archive=archive,
        force=force,
        seed=int(merged.get("seed", 0)),
        settings=merged.get("settings", StaticInt8Settings()),
    )


def _recipe(path: Path) -> dict[str, Any]:
    document = read_yaml(path)
    check_keys(document, RECIPE_KEYS, str(path))
    found: dict[str, Any] = {
        key: document[key] for key in ("precision", "seq_len", "seed") if key in document
    }
    calibration = document.get("calibration") or {}
    check_keys(calibration, ("samples",), f"`calibration` of {path}")
    if "samples" in calibration:
        found["calib_samples"] = calibration["samples"]
    found["settings"] = _settings(document.get("static_int8") or {}, path)
    return found


def _settings(section: Mapping[str, Any], path: Path) -> StaticInt8Settings:
    check_keys(section, STATIC_INT8_KEYS, f"`static_int8` of {path}")
    values = dict(section)
    try:
        values["exclude"] = tuple(values.get("exclude") or ())
        return StaticInt8Settings(**values)
    except TypeError as error:
        raise ConfigError(f"`static_int8` of {path} has a value of the wrong type: {error}") from error


def _list(value: Any, default: tuple[str, ...]) -> list[str]:
    if value is None:
        return list(default)
    return [value] if isinstance(value, str) else [str(item) for item in value]


def _names(value: Any) -> list[str]:
    return [name.strip() for item in _list(value, ()) for name in item.split(",") if name.strip()]
