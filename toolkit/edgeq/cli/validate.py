"""`edgeq validate`: does a bundle still compute what it promised, here or on ARM64, and against the original?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeq.cli.options import Force, Json, Quiet
from edgeq.cli.output import Out
from edgeq.errors import GateError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeq.pipeline.drift import Drift
    from edgeq.pipeline.generation.language_report import LanguageReport
    from edgeq.pipeline.labelled_result import LabelledResult
    from edgeq.pipeline.validation.report import ValidationReport
    from edgeq.quantize.bootstrap import Estimate


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("validate")(validate)


def validate(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder or .edgeq file.")],
    against: Annotated[str | None, typer.Option(help="The original model, to compare with live.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Texts for the live comparison; as --calib of export.")
    ] = None,
    data_column: Annotated[str | None, typer.Option(help="Column of a table, or A,B for pairs.")] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Labelled lines by tabs, for the task's own metric: score, text, text, or label (or its index), "
            "text, or labels by commas, text, or right choice (or its index), prompt, choice, choice. With --against "
            "it decides where there are enough lines, unless --data names texts too; for language models running text "
            "judges as well."
        ),
    ] = None,
    on: Annotated[str, typer.Option(help="Where to execute: native, arm64 or adb.")] = "native",
    cpu: Annotated[
        str, typer.Option(help="Emulated core of --on arm64: cortex-a76, cortex-a55 or cortex-a53.")
    ] = "cortex-a76",
    runner: Annotated[
        Path | None, typer.Option(help="For --on adb: the runner program (samples/android/runner).")
    ] = None,
    runner_library: Annotated[
        list[Path] | None, typer.Option(help="A shared library the runner needs; repeat for several.")
    ] = None,
    serial: Annotated[str | None, typer.Option(help="For --on adb: which phone.")] = None,
    variant: Annotated[list[str] | None, typer.Option(help="Only this variant; repeat for several.")] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(help="METRIC=X, the worst that passes; replaces the bundle's quality gates."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="With --labels: also write the bundle's report with the accuracy, a .html file."),
    ] = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Replay the golden vectors and hold every variant to its gates; exit 3 when one does not hold."""
    from edgeq.pipeline.pages import check_accuracy_page, write_accuracy_page
    from edgeq.pipeline.request import parse_gates
    from edgeq.pipeline.validation.request import ValidationRequest
    from edgeq.pipeline.validation.run import run_validation
    from edgeq.runtime.adb import AdbOptions

    out = Out(json_mode=json, quiet=quiet)
    if report is not None:
        check_accuracy_page(report, bundle, labels)
    request = ValidationRequest(
        bundle=bundle,
        against=against,
        data=data,
        data_column=data_column,
        labels=labels,
        on=on,
        cpu=cpu,
        variants=tuple(variant or ()),
        gates=parse_gates(gate or ()),
        force=force,
        adb=None if runner is None else AdbOptions(runner, tuple(runner_library or ()), serial),
    )
    with out.progress() as progress:
        found = run_validation(request, progress)
    _print(out, found, on)
    if report is not None:
        write_accuracy_page(bundle, report, found, force=force)
    if not found.passed:
        raise GateError(
            f"{len(found.failures)} checks do not hold: {', '.join(found.failures)}",
            hint="edgeq validate --json has every number",
        )


def _print(out: Any, report: ValidationReport, on: str) -> None:
    for output in report.variants[0].outputs if report.variants else ():
        title = f"`{output}` against the original, on {report.variants[0].source}"
        rows = [*_rows(report, output), *(_side_by_side(report, output) if on != "native" else [])]
        out.report(title, ("", *(report.title(variant) for variant in report.variants)), rows)
    if any(variant.labelled and variant.labelled.drop is None for variant in report.variants):
        out.notice("the labelled metric is compared with nothing; --against ORIGINAL shows what is lost")
    if report.tokenization is not None:
        same = report.tokenization.cases - len(report.tokenization.different)
        out.notice(f"{same} of {report.tokenization.cases} golden texts give the recorded token ids")
    if report.run_by is not None:
        out.notice(f"the original was run by {report.run_by.name}")
        for what in report.run_by.notices:
            out.notice(what)
    if report.language is not None:
        _print_language(out, report.language)
    for what in dict.fromkeys(what for variant in report.variants for what in variant.notices):
        out.notice(what)
    for name, reason in report.skipped.items():
        out.notice(f"{name} was not executed: {reason}")
    out.result(report.to_json(), "passed" if report.passed else "failed")


_ROWS = (
    ("cosine_mean", "cosine mean", "{:.4f}"),
    ("cosine_p01", "cosine 1st percentile", "{:.4f}"),
    ("cosine_min", "cosine min", "{:.4f}"),
    ("score_error_mean", "score error mean, in spreads", "{:.4f}"),
    ("score_error_p99", "score error 99th percentile", "{:.4f}"),
    ("rank_correlation", "rank correlation", "{:.4f}"),
    ("span_agreement", "same answer span", "{:.1%}"),
    ("decision_agreement", "same decisions at 0.5", "{:.1%}"),
    ("label_agreement_min", "same decisions, worst label", "{:.1%}"),
    ("probability_error_mean", "probability error mean", "{:.4f}"),
    ("probability_error_p99", "probability error 99th percentile", "{:.4f}"),
    ("sqnr_db", "SQNR, dB", "{:.1f}"),
    ("max_abs", "max-abs", "{:.3g}"),
)
"""Metrics that any kind of model may have, in the order of the table."""


def _print_language(out: Any, language: LanguageReport) -> None:
    repeated = ", ".join(f"{count} {kind}" for kind, count in language.repeated.items())
    out.notice(f"repeated: {repeated}; {len(language.differences)} differ")
    for what in (*language.failures, *language.notices):
        out.notice(what)


def _rows(report: ValidationReport, output: str) -> list[tuple[str, ...]]:
    found = [variant.outputs[output] for variant in report.variants]
    gates = [[gate for gate in variant.gates if gate.output == output] for variant in report.variants]
    rows = [
        (title, *(shown.format(metrics[name]) for metrics in found))
        for name, title, shown in _ROWS
        if name in found[0]
    ]
    if "perplexity" in found[0]:
        rows += [
            ("KL mean, nats", *(f"{m['kl_mean']:.5f} +- {m['kl_se']:.5f}" for m in found)),
            ("KL 99th percentile", *(f"{metrics['kl_p99']:.5f}" for metrics in found)),
            ("perplexity", *(f"{metrics['perplexity']:.4f}" for metrics in found)),
            ("perplexity of the original", *(f"{metrics['perplexity_original']:.4f}" for metrics in found)),
            ("RMS change of the right token's probability", *(f"{m['delta_p_rms']:.2%}" for m in found)),
            ("greedy agreement, tokens", *(f"{metrics['greedy_agreement_mean']:.1f}" for metrics in found)),
        ]
    if "top1_agreement" in found[0]:
        rows.append(("top-1 agreement", *(f"{metrics['top1_agreement']:.1%}" for metrics in found)))
    if "kl_mean" in found[0] and "perplexity" not in found[0]:
        rows += [
            ("KL mean, nats", *(f"{metrics['kl_mean']:.5f}" for metrics in found)),
            ("KL 99th percentile", *(f"{metrics['kl_p99']:.5f}" for metrics in found)),
        ]
    rows += _labelled_rows([variant.labelled for variant in report.variants], found)
    rows += [
        *_drift_rows([variant.drift.get(output) for variant in report.variants]),
        ("verification", *(str(variant.verification) for variant in report.variants)),
        ("gates", *(_verdict(mine) for mine in gates)),
    ]
    return rows


def _drift_rows(drifts: Sequence[Drift | None]) -> list[tuple[str, ...]]:
    """Nothing for a bundle that was packed without what it recorded."""
    found = [drift for drift in drifts if drift is not None]
    if len(found) != len(drifts):
        return []
    return [
        ("max-abs from recorded", *(f"{drift.max_abs:.2g}" for drift in found)),
        ("RMS from recorded", *(f"{drift.rms:.2%}" for drift in found)),
    ]


def _labelled_rows(
    results: Sequence[LabelledResult | None], found: Sequence[Mapping[str, float]]
) -> list[tuple[str, ...]]:
    """The metric with its 95 % bounds; with an original, its own and what is lost."""
    given = [result for result in results if result is not None]
    if not given or given[0].name not in found[0]:
        return []
    name = given[0].name
    shown = "{:.2f}" if name == "spearman" else "{:.1%}"

    def estimate(value: Estimate, form: str) -> str:
        low, high = form.format(value.low), form.format(value.high)
        return f"{form.format(value.value)} ({low} to {high})"

    title = name.replace("_", " ")
    rows = [(f"{title}, 95 % bounds", *(estimate(result.value, shown) for result in given))]
    compared = [(result.original, result.drop) for result in given]
    originals = [shown.format(original.value) for original, _ in compared if original is not None]
    drops = [estimate(drop, "{:.2f}") for _, drop in compared if drop is not None]
    if drops:
        rows += [
            (f"{title} of the original", *originals),
            (f"{title} lost, points", *drops),
            (f"{title}, verdict", *(str(result.verdict) for result in given)),
        ]
    return rows


def _side_by_side(report: ValidationReport, output: str) -> list[tuple[str, ...]]:
    """The outputs the export recorded on its own machine, beside those of the device."""
    recorded = [variant.recorded.get(output, {}) for variant in report.variants]
    flags = [
        any(not gate.passed for gate in variant.gates if gate.output == output and gate.metric == "max_abs")
        for variant in report.variants
    ]
    return [
        *(
            (f"as recorded: {title}", *(shown.format(metrics[name]) for metrics in recorded))
            for name, title, shown in _ROWS
            if name in recorded[0] and name in ("cosine_mean", "score_error_mean", "max_abs")
        ),
        ("differs by more than kernels do", *("YES" if flag else "no" for flag in flags)),
    ]


def _verdict(gates: list[Any]) -> str:
    failed = [gate for gate in gates if not gate.passed]
    return f"{len(gates)} passed" if not failed else f"FAILED: {', '.join(gate.metric for gate in failed)}"
