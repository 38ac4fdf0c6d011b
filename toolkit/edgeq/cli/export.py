"""`edgeq export`: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeq.cli.options import Json, Quiet, Seed

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
    app.command("export", epilog=EXAMPLES)(export)


def export(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Hugging Face folder or Hub id, sentence-transformers folder, .onnx or .gguf file; "
            "the sample model if left out."
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", help="Platform; repeat for several. See `edgeq targets`."),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="A recipe's name: int8, int4, fp16, q4_k_m ... (see `edgeq recipes`), or a file type of the target."
        ),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="A recipe file; a bundle's recipe.yaml repeats its export.")
    ] = None,
    calib: Annotated[
        str | None,
        typer.Option(help="Calibration data: .txt .jsonl .csv .tsv .parquet .npz, a folder, or hf:NAME."),
    ] = None,
    calib_column: Annotated[
        str | None, typer.Option(help="Column of a table, or A,B for pairs of texts.")
    ] = None,
    calib_samples: Annotated[
        int | None, typer.Option(help="Samples to calibrate with; 256, or 1024 with GPTQ or AWQ.", min=8)
    ] = None,
    seq_len: Annotated[
        str | None,
        typer.Option(
            help="Tokens of variants with a static shape, several for Core ML: 32,128,256; a language model's context."
        ),
    ] = None,
    ios: Annotated[
        int | None, typer.Option(help="Oldest iOS for Core ML: 16, 17 or 18; the precision sets the least.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Override the task the config names.")] = None,
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch on the Hub.")] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(help="METRIC=X, the worst that passes; beyond it the command exits with 3."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The bundle's folder; with several targets, the folder that holds them."
        ),
    ] = None,
    variants: Annotated[str | None, typer.Option(help="Keep only these variants: cpu, nnapi.")] = None,
    archive: Annotated[bool, typer.Option("--archive", help="Also write NAME.edgeq, one file.")] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Also write the report with this machine's latency beside float32: a .html file, with several "
            "targets one each (NAME-TARGET.html)."
        ),
    ] = None,
    slim: Annotated[
        bool,
        typer.Option(
            "--slim",
            help="Without golden cases, report and plan, as `edgeq pack` leaves them out for an app.",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Measure each quantized layer alone, for `edgeq explain`.")
    ] = False,
    requantize: Annotated[
        bool,
        typer.Option(
            "--requantize", help="Quantize a checkpoint again that is quantized already (GGUF, GPTQ, AWQ)."
        ),
    ] = False,
    seed: Seed | None = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say what would be done, stop.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Export a model, quantize it with your data, and write a verified bundle."""
    from edgeq.cli.output import Out
    from edgeq.config import read_export_config
    from edgeq.pipeline.verdict import require_passed

    out = Out(json_mode=json, quiet=quiet)
    flags: dict[str, Any] = {
        "model": model,
        "target": target,
        "precision": precision,
        "recipe": recipe,
        "calib": calib,
        "calib_column": calib_column,
        "calib_samples": calib_samples,
        "seq_len": seq_len,
        "ios": ios,
        "task": task,
        "revision": revision,
        "gate": gate,
        "output": output,
        "variants": variants,
        "seed": seed,
        "sensitivity": sensitivity or None,
        "requantize": requantize or None,
        "slim": slim or None,
    }
    request = _request(read_export_config(flags, Path.cwd(), out.notice), archive=archive, force=force)
    if report is not None:
        _check_pages(request, report)
    if dry_run:
        _dry_run(out, request)
        return
    results = _run(out, request, report)
    _print(out, results, request.model)
    require_passed(results)


def _request(config: Any, *, archive: bool, force: bool) -> ExportRequest:
    from edgeq.pipeline.request import request_from

    return request_from(config, archive=archive, force=force)


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
