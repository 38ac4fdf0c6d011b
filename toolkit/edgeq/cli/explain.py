"""`edgeq explain`: which layers of a bundle lose most, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeq.cli.options import Force, Json, Quiet, Seed
from edgeq.cli.output import Out
from edgeq.errors import UsageError
from edgeq.report.plots import bar_plot, check_plot_path

if TYPE_CHECKING:
    from edgeq.pipeline.explain import Explanation
    from edgeq.quantize.sensitivity import LayerEffect

EXAMPLES = """
Examples:

- `edgeq explain out/my-model-android`
- `edgeq explain out/my-model-android --against ./my-model --data texts.txt --top 10 --plot layers.svg`
"""
BAR_WIDTH = 24
AT_EXPORT = "export --sensitivity measures it"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("explain", epilog=EXAMPLES)(explain)


def explain(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder or .edgeq file.", show_default=False)],
    against: Annotated[
        str | None, typer.Option(help="The original model: measure now, layer by layer.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Texts to measure on; the built-in ones if left out.")
    ] = None,
    data_column: Annotated[str | None, typer.Option(help="Column of a table, or A,B for pairs.")] = None,
    top: Annotated[int, typer.Option(help="Layers to show; 0 shows all.", min=0)] = 15,
    plot: Annotated[Path | None, typer.Option(help="Write the bars to this .svg or .png file.")] = None,
    force: Force = False,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show the layers of a bundle that lose most when only they are quantized, and why.

    Losses are measured with --against, or were by `export --sensitivity`; without either, what the plan says is shown.
    Core ML bundles and GGUF files are measured by the export alone: edgeq export --sensitivity.
    """
    from edgeq.pipeline.explain import ExplainRequest, run_explain

    out = Out(json_mode=json, quiet=quiet)
    if plot is not None:
        check_plot_path(plot)
    request = ExplainRequest(bundle, against, data, data_column, force, seed)
    with out.progress() as progress:
        found = run_explain(request, progress)
    if not found.effects:
        _print_decisions(out, found, top, plot)
        return
    shown = list(found.effects)[: top or None]
    if plot is not None:
        title = f"{bundle.name}: loss with only this layer quantized"
        bar_plot(plot, [item.name for item in shown], [item.loss for item in shown], title, _loss_name(shown))
        out.notice(f"plot: {plot}")
    _print(out, found, shown)


def _print(out: Any, found: Explanation, shown: list[LayerEffect]) -> None:
    largest = max(item.loss for item in shown)
    rows = [
        (
            item.name,
            item.format,
            f"{item.loss:.2e}",
            "█" * max(1, round(BAR_WIDTH * item.loss / largest)) if item.loss > 0 else "",
            f"{item.sqnr_db:.1f}",
            item.why,
        )
        for item in shown
    ]
    title = f"{found.variant}: {len(found.effects)} quantized layers, most harmful first ({found.source})"
    out.table(title, ("layer", "format", _loss_name(shown), "", "SQNR dB", "why"), rows)
    out.result(
        {
            "variant": found.variant,
            "source": found.source,
            "layers": [item.to_json() for item in found.effects],
        }
    )


def _print_decisions(out: Any, found: Explanation, top: int, plot: Path | None) -> None:
    if plot is not None:
        raise UsageError("nothing to plot: no layer was measured", hint=found.next_command or AT_EXPORT)
    shown = found.decisions[: top or None]
    title = f"{found.variant}: {len(found.decisions)} layers and tables in graph order ({found.source})"
    out.table(title, ("layer", "format", "known"), [(item.name, item.format, item.known) for item in shown])
    if len(shown) < len(found.decisions):
        out.notice(f"{len(found.decisions) - len(shown)} more: --top 0")
    out.notice(f"which layer loses most was not measured; {_how_to_measure(found)}")
    layers = [{"name": item.name, "format": item.format, "known": item.known} for item in found.decisions]
    facts = {"variant": found.variant, "source": found.source, "layers": layers}
    out.result({**facts, "next_command": found.next_command})


def _how_to_measure(found: Explanation) -> str:
    if found.next_command is None:
        return AT_EXPORT
    return f"{found.next_command} measures it, export --sensitivity stores it"


def _loss_name(shown: list[LayerEffect]) -> str:
    return shown[0].loss_name if shown else "loss"
