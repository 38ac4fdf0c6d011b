"""`edgeq export`: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeq.cli.options import Json, Quiet, with_options
from edgeq.cli.output import Out
from edgeq.config import read_export_config
from edgeq.pipeline.flags import file_keys
from edgeq.pipeline.options import ExportOptions, export_options
from edgeq.pipeline.verdict import require_passed

if TYPE_CHECKING:
    from edgeq.pipeline.plan import ExportPlan, TargetResult
    from edgeq.pipeline.request import ExportRequest

EXAMPLES = """
Examples:

- `edgeq export --target android` (the sample model)
- `edgeq export ./my-model --target android --target cpu --calib texts.txt`
- `edgeq export ./my-model --target coreml --ios 18 --seq-len 32,128,256`
- `edgeq export ./my-llm --target gguf --precision q4_k_m --calib texts.txt`
- `edgeq export ./my-model --target android --gate cosine_mean=0.99 --output out --archive`
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export", epilog=EXAMPLES)(with_options(ExportOptions, before={"report": "slim"})(export))


def export(
    given: dict[str, Any],
    report: Annotated[
        Path | None,
        typer.Option(
            help="Also write the report with this machine's latency beside float32: a .html file, with several "
            "targets one each (NAME-TARGET.html)."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say what would be done, stop.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Export a model, quantize it with your data, and write a verified bundle."""
    from edgeq.pipeline.request import request_from

    out = Out(json_mode=json, quiet=quiet)
    asked = read_export_config(given, Path.cwd(), out.notice, file_keys(ExportOptions))
    request = request_from(export_options(asked))
    if report is not None:
        _check_pages(request, report)
    if dry_run:
        _dry_run(out, request)
        return
    results = _run(out, request, report)
    _print(out, results, request.model)
    require_passed(results)


def _check_pages(request: ExportRequest, page: Path) -> None:
    from edgeq.pipeline.pages import check_page, export_pages
    from edgeq.pipeline.plan import bundle_folders

    folders = bundle_folders(request)
    for own in export_pages(page, list(folders)).values():
        check_page(own, list(folders.values()))


def _run(out: Any, request: ExportRequest, page: Path | None) -> list[TargetResult]:
    from edgeq.pipeline.export import run_export
    from edgeq.pipeline.pages import write_export_pages

    with out.progress() as progress:
        results = run_export(request, progress)
    if page is not None:
        write_export_pages(results, page)
    return results


def _dry_run(out: Any, request: ExportRequest) -> None:
    from edgeq.pipeline.forward.rehearse import rehearse
    from edgeq.pipeline.planning import plan_export
    from edgeq.report.words import calibration_title

    with out.progress() as progress:
        plan = plan_export(request, progress)
        rehearse(plan, progress)
    document = _plan_json(plan)
    rows = [
        (name, ", ".join(target["variants"]), target["output"])
        for name, target in document["targets"].items()
    ]
    out.result(document)
    out.table(
        f"{document['model']} ({document['architecture']}, {document['task']})",
        ("target", "variants", "output"),
        rows,
    )
    title = calibration_title(document["calibration"]["source"])
    samples = f"{document['calibration']['samples']} samples of {title}"
    used = document["calibration"]["used"]
    out.notice(f"calibration: {samples}" if used else f"no calibration; compared on {samples}")


def _plan_json(plan: ExportPlan) -> dict[str, Any]:
    from edgeq.pipeline.stored import is_calibrated
    from edgeq.pipeline.ways import sample_counts

    used = is_calibrated(plan)
    held_out, calibrating = sample_counts(plan)
    return {
        "model": plan.request.model,
        "architecture": plan.facts.architecture,
        "task": str(plan.facts.task),
        "precision": plan.request.recipe.name,
        "calibration": {
            "source": plan.data.source,
            "samples": calibrating if used else held_out,
            "sha256": plan.data.sha256,
            "used": used,
        },
        "targets": {
            name: {"output": str(destination), "variants": [spec.id for spec in plan.variants[name]]}
            for name, destination in plan.destinations.items()
        },
    }


def _print(out: Any, results: list[TargetResult], model: str | None) -> None:
    from edgeq.pipeline.summary import next_commands, result_json, summary_table

    title, columns, rows = summary_table(results)
    out.report(title, columns, rows)
    paths = [path for result in results for path in (result.bundle.path, result.archive) if path is not None]
    out.result({"bundles": [result_json(result) for result in results]}, "\n".join(map(str, paths)))
    commands = next_commands(results, model)
    if commands:
        out.notice("\n".join(("next:", *(f"  {command}" for command in commands))))
