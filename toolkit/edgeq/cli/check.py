"""`edgeq check`: which nodes the phone's accelerator takes, in how many pieces, and why not the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeq.bundle.foreign import refuse_foreign
from edgeq.cli.output import Out
from edgeq.errors import ConfigError, GateError, UsageError

if TYPE_CHECKING:
    from edgeq.graph.overflow import SaturatingLayer
    from edgeq.targets.placement.report import PlacementReport, Prediction
    from edgeq.targets.placement.usability import Comparison

PROVIDERS = {"android": "NnapiExecutionProvider", "coreml": "CoreMLExecutionProvider"}
_SHOWN_REASONS = 12


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("check")(check)


def check(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL.onnx|BUNDLE", help="An ONNX model, or a bundle.", show_default=False),
    ],
    target: Annotated[
        str, typer.Option(help="Whose accelerator: android (NNAPI) or coreml.", show_default=False)
    ],
    dim: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SIZE", help="Fix a free dimension of the inputs; may be repeated."),
    ] = None,
    require_full: Annotated[
        bool, typer.Option("--require-full", help="Exit 3 unless one partition takes every node.")
    ] = False,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Show every refused node, and where the usability checker differs."),
    ] = False,
    api_level: Annotated[int, typer.Option(help="Android API level of the phone.", min=1)] = 29,
    coreml_format: Annotated[str, typer.Option(help="MLProgram or NeuralNetwork.")] = "MLProgram",
    onnxruntime_release: Annotated[str, typer.Option(help="Whose NNAPI rules: 1.21 or 1.27.")] = "1.27",
    json_mode: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Predict which nodes the accelerator takes, without a phone.

    Follows the support checks of ONNX Runtime's NNAPI and Core ML providers, for the model as shipped and
    after ONNX Runtime's own level-1 optimizations. Whether a vendor's driver agrees, no desktop can know.
    Also names int8 layers whose sums saturate on x86-64 processors without VNNI.

    Example: `edgeq check model.onnx --target android --dim batch=1 --dim sequence=128`
    """
    out = Out(json_mode=json_mode)
    options = {
        "api_level": api_level,
        "coreml_format": coreml_format,
        "onnxruntime_release": onnxruntime_release,
    }
    dims = parse_dims(dim or [])
    with _subjects(model, target, out) as (subjects, is_bundle):
        sizes = _dims_of_each(subjects, dims)
        results = [
            _check_one(subject, target, own, options, explain=explain)
            for subject, own in zip(subjects, sizes, strict=True)
        ]
    documents = [result.to_json() for result in results]
    if is_bundle:
        named = [
            {"id": result.subject.id} | document for result, document in zip(results, documents, strict=True)
        ]
        out.result({"target": target, "variants": named})
    else:
        out.result(documents[0])
    for result in results:
        _show(out, result, named=is_bundle, explain=explain)
    if require_full:
        _require_full(results, f"edgeq check {model} --target {target} --explain")


@dataclass(frozen=True, slots=True)
class _Subject:
    """A model to check; `promises` when it is built for this accelerator, so that --require-full applies."""

    id: str
    path: Path
    promises: bool


@dataclass(frozen=True, slots=True)
class _Result:
    subject: _Subject
    report: PlacementReport
    comparison: Comparison | None
    saturating: Sequence[SaturatingLayer]

    def to_json(self) -> dict[str, Any]:
        from edgeq.runtime.executors import CAN_SATURATE

        document = self.report.to_json()
        document[CAN_SATURATE] = [layer.to_json() for layer in self.saturating]
        if self.comparison:
            document["usability_checker"] = self.comparison.to_json()
        return document


def parse_dims(entries: Sequence[str]) -> dict[str, int]:
    """`["batch=1"]` to `{"batch": 1}`.

    Raises:
        UsageError: an entry that is no NAME=SIZE, or a name given twice.
    """
    dims: dict[str, int] = {}
    for entry in entries:
        name, equals, size = entry.rpartition("=")
        if not (equals and name and size.strip().isdecimal()):
            raise UsageError(
                f"--dim got `{entry}`, expected NAME=SIZE", hint="--dim batch=1 --dim sequence=128"
            )
        if name in dims:
            raise UsageError(f"--dim names `{name}` twice")
        dims[name] = int(size)
    return dims


@contextmanager
def _subjects(path: Path, target: str, out: Out) -> Iterator[tuple[list[_Subject], bool]]:
    from edgeq.bundle.manifest import Status
    from edgeq.bundle.reader import looks_like_bundle, open_bundle

    if target not in PROVIDERS:
        raise UsageError(f"--target got `{target}`, expected {' or '.join(PROVIDERS)}")
    if not looks_like_bundle(path):
        if path.suffix != ".onnx":
            refuse_foreign(path)
        if path.is_dir():
            raise UsageError(
                f"`{path}` is a folder without edgeq.json", hint="give an .onnx file or a bundle"
            )
        yield [_Subject(path.name, path, promises=True)], False
        return
    with open_bundle(path, force=True) as bundle:
        if bundle.manifest.status is Status.FAILED:
            out.warn(f"`{path}` failed its quality gate; where its nodes run is predicted all the same")
        onnx_variants = [variant for variant in bundle.variants if variant.model_file.endswith(".onnx")]
        if not onnx_variants:
            raise ConfigError(
                f"`{path}` has no ONNX variant, nothing to predict", hint=f"edgeq inspect {path}"
            )
        promised = {
            variant.id for variant in onnx_variants if variant.execution_provider == PROVIDERS[target]
        }
        yield (
            [
                _Subject(variant.id, bundle.model_path(variant), not promised or variant.id in promised)
                for variant in onnx_variants
            ],
            True,
        )


def _dims_of_each(subjects: Sequence[_Subject], dims: Mapping[str, int]) -> list[Mapping[str, int]]:
    """In a bundle each variant takes the names it has; a name must exist in at least one."""
    if len(subjects) == 1 or not dims:
        return [dims] * len(subjects)
    known = [set(_free_dims(subject)) for subject in subjects]
    everywhere = set().union(*known)
    if unknown := sorted(set(dims) - everywhere):
        raise ConfigError(
            f"no variant has a free dimension `{unknown[0]}`; "
            f"they have: {', '.join(f'`{name}`' for name in sorted(everywhere)) or 'none'}"
        )
    return [{name: size for name, size in dims.items() if name in names} for names in known]


def _free_dims(subject: _Subject) -> tuple[str, ...]:
    from edgeq.targets.placement.fix_dims import free_dims
    from edgeq.targets.placement.read_model import load_proto

    return free_dims(load_proto(subject.path)[0])


def _check_one(
    subject: _Subject, target: str, dims: Mapping[str, int], options: Mapping[str, Any], *, explain: bool
) -> _Result:
    from edgeq.graph.overflow import find_saturating
    from edgeq.targets.placement.predict import predict
    from edgeq.targets.placement.usability import compare_with_usability_checker

    report = predict(subject.path, target=target, dims=dims, **options)
    comparison = (
        compare_with_usability_checker(subject.path, target=target, dims=dims, **options) if explain else None
    )
    return _Result(subject, report, comparison, find_saturating(subject.path))


def _show(out: Out, result: _Result, *, named: bool, explain: bool) -> None:
    report = result.report
    if out.json_mode:
        return
    title = result.subject.id if named else None
    forms = [("as shipped", report.as_shipped)]
    if report.optimized:
        forms.append(("after level-1 optimization", report.optimized))
    out.table(title, ("graph", "nodes taken", "partitions", "needs", "full"), [_row(*form) for form in forms])
    if result.saturating:
        from edgeq.report.words import saturation_text

        out.warn(saturation_text([layer.node for layer in result.saturating]))
    if report.optimized_skipped:
        out.notice(f"no prediction after optimization: {report.optimized_skipped}")
    if not (result.subject.promises or explain):
        out.notice(f"`{result.subject.id}` is not built for this accelerator; --explain shows the reasons")
        return
    # One table is enough to act on; a session on the phone sees the last form.
    for form, prediction in forms if explain else forms[-1:]:
        _show_reasons(out, form, prediction, every=explain)
    for mine in report.landmines:
        out.warn(
            f"{mine.code}: {mine.problem} ({', '.join(mine.nodes)}). On the device: {mine.device}. "
            f"Fix: {mine.fix}"
        )
    for note in dict.fromkeys(note for _, prediction in forms for note in prediction.notes):
        out.notice(f"note: {note}")
    if result.comparison:
        _show_comparison(out, result.comparison)


def _row(form: str, prediction: Prediction) -> tuple[str, ...]:
    needs = "-"
    if prediction.min_version is not None:
        needs = (
            f"Android API {prediction.min_version}"
            if prediction.target == "android"
            else f"Core ML {prediction.min_version}"
        )
    taken = f"{prediction.taken}/{prediction.nodes}"
    return form, taken, str(prediction.partitions), needs, "yes" if prediction.is_full else "no"


def _show_reasons(out: Out, form: str, prediction: Prediction, *, every: bool) -> None:
    if not prediction.refused:
        return
    if every:
        rows = [(r.node, r.op, r.reason, r.fix or "") for r in prediction.refused]
        out.table(f"on the CPU, {form}", ("node", "operator", "reason", "fix"), rows)
        return
    counts: dict[tuple[str, str, str], int] = {}
    for refused in prediction.refused:
        key = (refused.op, refused.reason, refused.fix or "")
        counts[key] = counts.get(key, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    rows = [(str(count), *key) for key, count in ordered[:_SHOWN_REASONS]]
    out.table(f"on the CPU, {form}", ("nodes", "operator", "reason", "fix"), rows)
    if len(ordered) > _SHOWN_REASONS:
        out.notice(f"and {len(ordered) - _SHOWN_REASONS} more reasons; --explain or --json shows every node")


def _show_comparison(out: Out, comparison: Comparison) -> None:
    out.notice(
        f"ONNX Runtime's usability checker says {comparison.verdict}: {comparison.taken}/{comparison.nodes} "
        f"nodes in {comparison.partitions} partitions; the provider's own rules give {comparison.ours.taken}/"
        f"{comparison.ours.nodes} in {comparison.ours.partitions}"
    )
    rows = [
        (d.node, d.op, "takes it" if d.checker_takes else "refuses it", d.reason)
        for d in comparison.differences
    ]
    if rows:
        out.table("judged differently", ("node", "operator", "checker", "the provider"), rows)


def _require_full(results: Sequence[_Result], hint: str) -> None:
    for result in results:
        if result.subject.promises and not result.report.is_full:
            worst = _worst(result.report)
            mines = f", {len(result.report.landmines)} landmines" if result.report.landmines else ""
            raise GateError(
                f"`{result.subject.id}` is not one full partition: {worst.taken} of {worst.nodes} nodes in "
                f"{worst.partitions} partitions{mines}, expected all nodes in 1",
                hint=hint,
            )


def _worst(report: PlacementReport) -> Prediction:
    if report.optimized is not None and report.as_shipped.is_full:
        return report.optimized
    return report.as_shipped
