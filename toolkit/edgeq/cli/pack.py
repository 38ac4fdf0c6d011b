"""`edgeq pack`: of a bundle, what an app ships."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeq.cli.options import Json, Quiet
from edgeq.cli.output import Out

if TYPE_CHECKING:
    from edgeq.pipeline.pack import Packed

EXAMPLES = """
Examples:

- `edgeq pack out/my-model-android --variants cpu --output out/my-app`
- `edgeq pack out/my-model-android --variants cpu --drop-goldens --drop-report --output out/my-app --archive`
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("pack", epilog=EXAMPLES)(pack)


def pack(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder or .edgeq file.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The smaller bundle's folder.", show_default=False)
    ],
    variants: Annotated[
        str | None,
        typer.Option(
            help="Keep only these, by id or engine: cpu-int8 or cpu; several with commas.",
            show_default="all of them",
        ),
    ] = None,
    drop_goldens: Annotated[
        bool,
        typer.Option(
            "--drop-goldens",
            help="Without golden cases: no device can be compared any more, `validate` needs --against.",
        ),
    ] = False,
    drop_report: Annotated[
        bool,
        typer.Option(
            "--drop-report", help="Without report.html, plan.json and sensitivity.json, which no app reads."
        ),
    ] = False,
    archive: Annotated[bool, typer.Option("--archive", help="Also write NAME.edgeq, one file.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle at --output.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a smaller whole bundle: some variants, with or without golden cases, its own manifest and hashes.

    Nothing is quantized or measured again: model files are copied byte for byte, and what the manifest, the golden
    cases, the card and the report say of other variants is left out. A bundle that failed its gate is refused.
    """
    from edgeq.pipeline.pack import PackRequest, Slimming, run_pack

    out = Out(json_mode=json, quiet=quiet)
    names = tuple(name.strip() for name in (variants or "").split(",") if name.strip())
    request = PackRequest(bundle, output, Slimming(names, drop_goldens, drop_report), archive, force)
    with out.progress() as progress:
        packed = run_pack(request, progress)
    _print(out, packed)


def _print(out: Any, packed: Packed) -> None:
    out.notice(
        f"{packed.bytes_before / 1e6:.1f} MB -> {packed.bytes_after / 1e6:.1f} MB"
        + (f", without {', '.join(packed.dropped)}" if packed.dropped else "")
    )
    paths = [path for path in (packed.bundle.path, packed.archive) if path is not None]
    out.result(
        {
            "path": str(packed.bundle.path),
            "archive": None if packed.archive is None else str(packed.archive.absolute()),
            "variants": [variant.id for variant in packed.bundle.variants],
            "dropped": list(packed.dropped),
            "golden_cases": len(packed.bundle.manifest.golden),
            "size_bytes": packed.bytes_after,
            "size_bytes_before": packed.bytes_before,
        },
        "\n".join(map(str, paths)),
    )
