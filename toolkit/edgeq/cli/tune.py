"""`edgeq tune`: the smallest model that keeps a metric, or the best within a size."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeq.cli.options import Json, Quiet, Seed
from edgeq.cli.output import Out
from edgeq.errors import OutputError
from edgeq.files import atomic_write_text, check_output, check_output_file
from edgeq.report.plots import Point, Series, check_plot_path, trade_off_plot

if TYPE_CHECKING:
    from edgeq.pipeline.tune.result import Evaluated, TuneResult

EXAMPLES = """
Examples:

- `edgeq tune ./my-model --target android --budget cosine=0.995`
- `edgeq tune ./my-model --target cpu --budget size=12MB --output small.yaml --plot small.svg`
- `edgeq tune ./my-model --target cpu --budget spearman_drop=0.2 --data labelled.tsv --output out/small`
- `edgeq tune ./my-language-model --target cpu --budget perplexity_ratio=1.02`
"""
SHOWN_UNITS = 10


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("tune", epilog=EXAMPLES)(tune)


def tune(
    budget: Annotated[
        str,
        typer.Option(
            help="cosine=0.995, spearman_drop=0.2, kl=0.01, perplexity_ratio=1.02, size=12MB; or in quotes, as "
            '"size<=12MB".',
            show_default=False,
        ),
    ],
    model: Annotated[
        str | None, typer.Argument(help="Hugging Face folder or Hub id; the sample model if left out.")
    ] = None,
    target: Annotated[
        str, typer.Option("--target", "-t", help="Platform whose CPU variant is tuned.")
    ] = "android",
    calib: Annotated[
        str | None, typer.Option(help="Texts: to calibrate, rank, decide and report on, in separate parts.")
    ] = None,
    calib_column: Annotated[str | None, typer.Option(help="Column of a table, or A,B for pairs.")] = None,
    calib_samples: Annotated[int, typer.Option(help="Texts to calibrate with.", min=8)] = 1024,
    data: Annotated[
        Path | None, typer.Option(help="Labelled pairs for spearman_drop: score, text, text by tabs.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Override the task the config names.")] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="A .yaml file for the recipe, or a folder for a bundle made with it."
        ),
    ] = Path("tuned.yaml"),
    plot: Annotated[Path | None, typer.Option(help="Write the front to this .svg or .png file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output.")] = False,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Search formats layer by layer, guided by sensitivity, for the smallest model inside a budget."""
    from edgeq.pipeline.tune.budget import parse_budget
    from edgeq.pipeline.tune.result import TuneRequest
    from edgeq.pipeline.tune.run import run_tune

    out = Out(json_mode=json, quiet=quiet)
    request = TuneRequest(
        target, parse_budget(budget), model, calib, calib_column, calib_samples, data, task, seed
    )
    _check_output(output, force)
    if plot is not None:
        check_plot_path(plot)
    with out.progress() as progress:
        result = run_tune(request, progress)
    written = _write(out, request, result, output, force)
    if plot is not None:
        _plot(plot, result)
        out.notice(f"plot: {plot}")
    _print(out, result, written)


def _check_output(output: Path, force: bool) -> None:

    if output.suffix not in (".yaml", ".yml"):
        check_output(output, force)
    elif output.exists() and not force:
        raise OutputError(f"`{output}` exists", hint="choose another --output, or replace it with --force")
    else:
        check_output_file(output, "--output")


def _write(out: Any, request: Any, result: TuneResult, output: Path, force: bool) -> Path:
    """The recipe, or a bundle made with it."""
    from edgeq.pipeline.export import run_export
    from edgeq.pipeline.request import ExportRequest

    if output.suffix in (".yaml", ".yml"):
        atomic_write_text(output, result.recipe.to_yaml())
        return output
    export = ExportRequest(
        model=request.model,
        target=(request.target,),
        recipe=result.recipe,
        calib=request.calib,
        calib_column=request.calib_column,
        calib_samples=request.calib_samples,
        task=request.task,
        output=output,
        force=force,
        seed=request.seed,
    )
    with out.progress() as progress:
        [made] = run_export(export, progress)
    return made.bundle.path


def _print(out: Any, result: TuneResult, written: Path) -> None:
    out.table(
        f"measured on the decision data (n = {result.chosen.estimate.n}), 95 % bounds",
        ("", "MB", result.metric, "lower", "upper", "formats"),
        [_row(item, item is result.chosen or item == result.chosen) for item in result.curve],
    )
    units = list(result.losses.items())[:SHOWN_UNITS]
    formats = result.chosen.point.formats
    out.report(
        "what costs most in the choice (predicted)",
        ("layer", "format", "loss"),
        [(name, formats[name], f"{loss:.2e}") for name, loss in units],
    )
    for note in result.notes:
        out.notice(note)
    report = result.report
    out.notice(
        f"chosen: {result.chosen.size_bytes / 1e6:.2f} MB; on data that decided nothing (n = {report.n}): "
        f"{result.metric} {report.value:.5g}, 95 % bounds {report.low:.5g} to {report.high:.5g}"
    )
    out.result(_document(result, written))
    if not out.quiet:
        out.notice(f"written: {written}")


def _row(item: Evaluated, chosen: bool) -> tuple[str, ...]:
    estimate = item.estimate
    counts: dict[str, int] = {}
    for form in item.point.formats.values():
        counts[form] = counts.get(form, 0) + 1
    mixed = ", ".join(f"{count}x {form}" for form, count in sorted(counts.items()))
    label = "chosen" if chosen else item.label
    return (
        label,
        f"{item.size_bytes / 1e6:.2f}",
        f"{estimate.value:.5f}",
        f"{estimate.low:.5f}",
        f"{estimate.high:.5f}",
        mixed,
    )


def _document(result: TuneResult, written: Path) -> dict[str, Any]:
    return {
        "budget": str(result.budget),
        "metric": result.metric,
        "output": str(written),
        "chosen": _point(result.chosen),
        "report": _estimate(result.report),
        "curve": [_point(item) for item in result.curve],
        "notes": list(result.notes),
    }


def _point(item: Evaluated) -> dict[str, Any]:
    return {
        "label": item.label,
        "size_bytes": item.size_bytes,
        "estimate": _estimate(item.estimate),
        "predicted_loss": None if isnan(item.point.loss) else item.point.loss,
        "formats": dict(item.point.formats),
    }


def _estimate(estimate: Any) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}


def _plot(path: Path, result: TuneResult) -> None:

    def point(item: Evaluated, label: str = "") -> Point:
        estimate = item.estimate
        return Point(label, item.size_bytes / 1e6, estimate.value, estimate.low, estimate.high)

    fixed = [item for item in result.curve if item.label]
    searched = [item for item in result.curve if not item.label]
    series = [
        Series("searched", [point(item) for item in searched], connected=True),
        Series("fixed recipes", [point(item, item.label) for item in fixed]),
        Series("chosen", [point(result.chosen)]),
    ]
    trade_off_plot(path, series, f"edgeq tune: {result.budget}", result.metric)
