"""`edgeq inspect`: what is inside a bundle, and what is known about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeq.cli.output import Out
from edgeq.cli.tables import named_lines
from edgeq.errors import GateError

if TYPE_CHECKING:
    from edgeq.bundle.manifest import Gate, Manifest, Variant
    from edgeq.bundle.reader import Bundle
    from edgeq.types import TensorSpec

_MOST_REASONS = 8


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("inspect")(inspect)


def inspect(
    bundle_path: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="A bundle folder or .edgeq archive.", show_default=False)
    ],
    json_mode: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Also inputs, outputs, placement, and every metric and gate.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Exit 0 for a bundle that failed its gate.")] = False,
    verify: Annotated[bool, typer.Option(help="Compare every file's SHA-256 with the manifest.")] = True,
) -> None:
    """Show what is inside a bundle: variants, sizes, requirements, quality; with --full everything in its manifest.

    A bundle that failed its quality gate is shown too, and the exit code is then 3 unless --force is given.
    """
    from edgeq.bundle.manifest import Status
    from edgeq.bundle.reader import open_bundle
    from edgeq.pipeline.saturating import saturating_layers

    out = Out(json_mode=json_mode)
    with open_bundle(bundle_path, force=True, verify=verify) as bundle:
        saturating = {variant.id: saturating_layers(bundle, variant) for variant in bundle.variants}
        text = _summary(bundle, verified=verify, full=full, width=out.width)
        out.result(_document(bundle, saturating, verified=verify), text)
        if full:
            _print_tables(out, bundle.manifest)
        else:
            _print_short(out, bundle.manifest)
        _warn_of_saturation(out, saturating)
        if bundle.manifest.status is Status.FAILED and not force:
            raise GateError(
                f"`{bundle_path}` failed its quality gate",
                hint="run, validate, bench, explain and diff need --force for it; pack makes nothing of it",
            )


def _warn_of_saturation(out: Out, saturating: Mapping[str, list[str] | None]) -> None:
    from edgeq.report.words import saturation_text

    for name, layers in saturating.items():
        if layers:
            out.warn(f"{name}: {saturation_text(layers)}")


def _document(
    bundle: Bundle, saturating: Mapping[str, list[str] | None], *, verified: bool
) -> dict[str, Any]:
    facts = {
        "path": str(bundle.path),
        "size_bytes": _total_bytes(bundle.manifest),
        "verified": verified,
        "can_saturate": dict(saturating),
    }
    document = bundle.manifest.current_json()
    for variant in document["variants"]:
        variant |= _only_model(variant["models"])
    text = document.get("processor", {}).get("text")
    return {"bundle": facts, **document} | ({} if text is None else {"tokenizer": text})


def _only_model(models: Mapping[str, str]) -> dict[str, str]:
    """`model`, which scripts know from format 1, where there is one graph; of several it would hide the others."""
    return dict(models) if len(models) == 1 else {}


def _summary(bundle: Bundle, *, verified: bool, full: bool, width: int | None) -> str:
    manifest = bundle.manifest
    source = manifest.source
    files = len(manifest.integrity.files)
    lines = [
        ("bundle", f"{manifest.name} for {manifest.target}, format {manifest.format.version}"),
        (
            "status",
            f"{manifest.status} its quality gate" if manifest.gates else f"{manifest.status}, no gates",
        ),
        ("source", _join(source.model, source.revision, source.license)),
        ("model", f"{source.architecture}, {source.task}, {source.parameters / 1e6:.1f} M parameters"),
        ("files", f"{files}, {_size(_total_bytes(manifest))}, {'verified' if verified else 'not verified'}"),
        ("made by", _makers(manifest, full=full)),
        *_text_lines(manifest),
        *_quantization_lines(manifest),
    ]
    return named_lines(lines, width, name=14)


def _makers(manifest: Manifest, *, full: bool) -> str:
    made = manifest.created_by
    shown = made if full else {name: version for name, version in made.items() if name == "edgeq"} or made
    return ", ".join(f"{name} {version}" for name, version in shown.items())


def _text_lines(manifest: Manifest) -> list[tuple[str, str]]:
    steps = [step.step for step in manifest.preprocess] + [step.step for step in manifest.postprocess]
    lines = [("steps", ", ".join(steps))]
    if manifest.text_processor:
        lines.append(("tokenizer", f"up to {manifest.text_processor.max_length} tokens, padded on the right"))
    labels = manifest.source.labels
    if labels:
        lines.append(
            ("labels", ", ".join(labels[:10]) + (f" and {len(labels) - 10} more" if labels[10:] else ""))
        )
    return [*lines, ("golden cases", str(len(manifest.golden)) if manifest.golden else "")]


def _quantization_lines(manifest: Manifest) -> list[tuple[str, str]]:
    quantization = manifest.quantization
    if quantization is None:
        return []
    bits = f", {quantization.bits_per_weight:.2f} bits per weight" if quantization.bits_per_weight else ""
    lines = [("quantization", f"{quantization.precision}, recipe {quantization.recipe}{bits}")]
    if quantization.calibration:
        data = quantization.calibration
        lines.append(("calibration", f"{data.samples} samples of {data.source}, seed {data.seed}"))
    if quantization.excluded:
        named = "; ".join(f"{item.node} ({item.reason})" for item in quantization.excluded[:_MOST_REASONS])
        more = len(quantization.excluded) - _MOST_REASONS
        lines.append(("in float", named + (f"; and {more} more" if more > 0 else "")))
    return lines


def _print_short(out: Out, manifest: Manifest) -> None:
    columns = ["variant", "runs on", "precision", "size", "tokens", "quality", "gates"]
    rows = [_short_row(manifest, variant) for variant in manifest.variants]
    out.table("Variants, most preferred first", columns, rows)
    needs = [(variant.id, _plain_requirements(variant)) for variant in manifest.variants]
    if any(text for _, text in needs):
        out.text("Requires\n" + named_lines(needs, out.width, indent=1))
    out.text("\n--full shows inputs, outputs, placement, and every metric and gate")


def _short_row(manifest: Manifest, variant: Variant) -> list[str]:
    from edgeq.report.words import runtime_title

    gates = [gate for gate in manifest.gates if gate.variant == variant.id]
    failed = [gate.metric for gate in gates if gate.passed is False]
    held = f"{sum(gate.passed is True for gate in gates)} passed" if gates else "none"
    first = next((metric for metric in manifest.metrics if metric.variant == variant.id), None)
    return [
        variant.id,
        runtime_title(variant),
        variant.precision,
        _size(variant.size_bytes),
        _tokens(variant, manifest),
        "" if first is None else f"{first.metric} {first.value:.4f}",
        f"FAILED: {', '.join(failed)}" if failed else held,
    ]


def _tokens(variant: Variant, manifest: Manifest) -> str:
    """`128` where the shape is static, `up to 256` where it is free, `32, 64` where there are several."""
    if variant.token_lengths:
        return ", ".join(map(str, variant.token_lengths))
    return f"up to {manifest.text_processor.max_length}" if manifest.text_processor else ""


def _plain_requirements(variant: Variant) -> str:
    from edgeq.report.words import requirement_lines

    return ", ".join(f"{what} {value}" for what, value in requirement_lines(variant))


def _print_tables(out: Out, manifest: Manifest) -> None:
    columns = ["variant", "runtime", "provider", "precision", "opset", "size", "requires"]
    out.table("Variants, most preferred first", columns, [_variant_row(item) for item in manifest.variants])
    tensors = [row for variant in manifest.variants for row in _tensor_rows(variant)]
    out.table("Inputs and outputs", ["variant", "way", "name", "dtype", "shape", "role"], tensors)
    _table(out, "Placement", ["variant", "what", "value"], _placement_rows(manifest))
    columns = ["variant", "output", "metric", "value", "samples", "verification", "environment"]
    _table(out, "Metrics", columns, _metric_rows(manifest))
    columns = ["variant", "output", "metric", "required", "value", "verdict", "from"]
    _table(out, "Gates", columns, [_gate_row(gate) for gate in manifest.gates])


def _table(out: Out, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if rows:
        out.table(title, columns, rows)


def _variant_row(variant: Variant) -> list[str]:
    requirements = _plain(variant.requirements)
    provider = variant.execution_provider.removesuffix("ExecutionProvider")
    opset = str(variant.opset or "")
    return [
        variant.id,
        variant.runtime,
        provider,
        variant.precision,
        opset,
        _size(variant.size_bytes),
        requirements,
    ]


def _tensor_rows(variant: Variant) -> list[list[str]]:
    rows = [_tensor_row("in", spec) for spec in variant.inputs]
    rows += [_tensor_row("out", spec) for spec in variant.outputs]
    return [[variant.id if index == 0 else "", *row] for index, row in enumerate(rows)]


def _tensor_row(direction: str, spec: TensorSpec) -> list[str]:
    return [direction, spec.name, spec.dtype, f"[{', '.join(map(str, spec.shape))}]", spec.role]


def _placement_rows(manifest: Manifest) -> list[list[str]]:
    from edgeq.report.words import is_empty

    return [
        [variant.id, key, _plain(value)]
        for variant in manifest.variants
        for key, value in variant.placement.items()
        if not is_empty(value)
    ]


def _metric_rows(manifest: Manifest) -> list[list[str]]:
    return [
        [m.variant, m.output or "", m.metric, f"{m.value:.6g}", str(m.n), m.verification, m.environment]
        for m in manifest.metrics
    ]


def _gate_row(gate: Gate) -> list[str]:
    verdict = {True: "passed", False: "FAILED", None: "not measured"}[gate.passed]
    value = "" if gate.value is None else f"{gate.value:.6g}"
    required = f"{gate.op} {gate.threshold:.6g}"
    return [gate.variant, gate.output, gate.metric, required, value, verdict, gate.derived_from]


def _plain(value: Any) -> str:
    """Free-form JSON in one line, the first of many reasons, without what is empty (`--json` has it)."""
    from edgeq.report.words import is_empty

    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items() if not is_empty(item))
    if isinstance(value, list | tuple):
        shown = "; ".join(_plain(item) for item in value[:_MOST_REASONS])
        return shown + (f"; and {len(value) - _MOST_REASONS} more" if len(value) > _MOST_REASONS else "")
    return str(value)


def _join(*parts: str | None) -> str:
    return ", ".join(part for part in parts if part)


def _total_bytes(manifest: Manifest) -> int:
    return sum(entry.size for entry in manifest.integrity.files)


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.2f} MB" if size_bytes >= 1e5 else f"{size_bytes / 1e3:.1f} kB"
