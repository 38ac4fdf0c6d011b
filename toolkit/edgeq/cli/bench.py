"""`edgeq bench`: how fast, measured side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeq.cli.options import Force, Json, Quiet
from edgeq.cli.output import Out
from edgeq.pipeline.bench.request import BenchRequest

if TYPE_CHECKING:
    from edgeq.pipeline.bench.timer import Timed


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bench")(bench)


def bench(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder or .edgeq file.")],
    against: Annotated[
        Path | None,
        typer.Option(
            help="The baseline: another bundle, or an .onnx file with the same inputs; for a language model another "
            "bundle, a folder of ONNX Runtime GenAI, or a .gguf file."
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Intra-op threads.", min=1)] = None,
    prompt_tokens: Annotated[
        int | None, typer.Option(help="Tokens that a language model reads (128).", min=1)
    ] = None,
    new_tokens: Annotated[
        int | None, typer.Option(help="Tokens that it writes after the first (64).", min=1)
    ] = None,
    llama_python: Annotated[
        Path | None,
        typer.Option(
            help="Python that has llama-cpp-python, which runs a .gguf file.", show_default="this one"
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Also write the bundle's report with these times: a .html file.")
    ] = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Time every variant, interleaved; on this machine's CPU, which is not the phone's.

    Encoders: latency by batch and length. Language models: time to the first token, tokens per second, growth of the
    cache, each contender in a process of its own.
    """
    from edgeq.pipeline.bench.run import run_bench
    from edgeq.pipeline.pages import check_page, write_bench_page

    out = Out(json_mode=json, quiet=quiet)
    request = BenchRequest(bundle, against, threads, force, prompt_tokens, new_tokens, llama_python)
    if report is not None:
        check_page(report, [bundle])
    with out.progress() as progress:
        found = run_bench(request, progress)
    if report is not None:
        write_bench_page(bundle, report, found, threads=threads, force=force)
    out.report(found.title, found.columns, found.rows)
    _warn_of_saturation(out, found.contenders)
    out.result({"baseline": found.baseline, "variants": [item.to_json() for item in found.contenders]})


def _warn_of_saturation(out: Out, found: Sequence[Timed]) -> None:
    """Times are those an app gets; here are the contenders whose results are then not exact."""
    from edgeq.report.words import saturated_text

    for item in found:
        if item.saturates is None:
            out.warn(f"{item.id}: nothing here can tell whether its integer sums are exact on this CPU")
        elif item.saturates:
            out.warn(f"{item.id}: {saturated_text(item.saturates)}")
