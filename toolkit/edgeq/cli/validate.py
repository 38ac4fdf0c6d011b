"""`edgeq validate`: does a bundle still compute what it promised, here or on ARM64, and against the original?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeq.cli.options import Force, Json, Quiet

if TYPE_CHECKING:
    from edgeq.pipeline.validation import ValidationReport


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
    on: Annotated[str, typer.Option(help="Where to execute: native, arm64 or adb.")] = "native",
    cpu: Annotated[
        str, typer.Option(help="Emulated core of --on arm64: cortex-a76 or cortex-a55.")
    ] = "cortex-a76",
    variant: Annotated[list[str] | None, typer.Option(help="Only this variant; repeat for several.")] = None,
    gate: Annotated[
        list[str] | None, typer.Option(help="METRIC>=X; replaces the bundle's quality gates.")
    ] = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Replay the golden vectors and hold every variant to its gates; exit 3 when one does not hold."""
    from edgeq.cli.output import Out
    from edgeq.errors import GateError
    from edgeq.pipeline.export import parse_gates
    from edgeq.pipeline.validation import ValidationRequest, run_validation

    out = Out(json_mode=json, quiet=quiet)
    request = ValidationRequest(
        bundle=bundle,
        against=against,
        data=data,
        data_column=data_column,
        on=on,
        cpu=cpu,
        variants=tuple(variant or ()),
        gates=parse_gates(gate or ()),
        force=force,
    )
    with out.progress() as progress:
        report = run_validation(request, progress)
    _print(out, report)
    if not report.passed:
        failed = [f"{v.id} {g.output} {g.metric}" for v in report.variants for g in v.gates if not g.passed]
        raise GateError(
            f"{len(failed)} gates do not hold: {', '.join(failed)}",
            hint="edgeq validate --json has every number",
        )


def _print(out: Any, report: ValidationReport) -> None:
    out.result(report.to_json())
    rows = [
        (
            variant.id,
            output,
            f"{metrics['cosine_mean']:.4f}",
            f"{metrics['cosine_min']:.4f}",
            f"{metrics['sqnr_db']:.1f}",
            f"{metrics['max_abs']:.3g}",
            f"{metrics['top1_agreement']:.1%}" if "top1_agreement" in metrics else "-",
            f"{variant.drift[output]:.2g}",
            str(variant.verification),
            "passed" if all(gate.passed for gate in variant.gates if gate.output == output) else "FAILED",
        )
        for variant in report.variants
        for output, metrics in variant.outputs.items()
    ]
    columns = (
        "variant",
        "output",
        "cosine mean",
        "min",
        "SQNR dB",
        "max-abs",
        "top-1",
        "from recorded",
        "verification",
        "gates",
    )
    source = report.variants[0].source
    out.table(f"against the original, on {source}", columns, rows)
    for name, reason in report.skipped.items():
        out.notice(f"{name} was not executed: {reason}")
