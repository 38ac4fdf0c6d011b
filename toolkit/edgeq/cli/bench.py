"""`edgeq bench`: how fast, measured side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeq.cli.options import Force, Json, Quiet


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bench")(bench)


def bench(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder or .edgeq file.")],
    against: Annotated[
        Path | None, typer.Option(help="Another bundle, or an .onnx file with the same inputs: the baseline.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Intra-op threads.", min=1)] = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Time every variant, interleaved; on this machine's CPU, which is not the phone's."""
    from edgeq.cli.output import Out
    from edgeq.pipeline.bench import BenchRequest, run_bench

    out = Out(json_mode=json, quiet=quiet)
    with out.progress() as progress:
        baseline, found = run_bench(BenchRequest(bundle, against, threads, force), progress)
    columns = ("", *(f"{case.batch}x{case.tokens} ms" for case in found[0].cases), "load ms", "RSS MiB")
    rows = [
        (
            item.id,
            *(f"{case.timing.p50_ms:.1f} ({case.timing.ratio:.2f}x)" for case in item.cases),
            f"{item.load_ms:.0f}",
            f"{item.rss_mb:.0f}",
        )
        for item in found
    ]
    out.report(f"median latency, and ratio to {baseline} in the same rounds", columns, rows)
    out.result({"baseline": baseline, "variants": [item.to_json() for item in found]})
