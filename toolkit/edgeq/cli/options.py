"""Option types that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document to stdout and nothing else there.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, notices or tables.")]
Force = Annotated[bool, typer.Option("--force", help="Go on with a bundle that failed its gate.")]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.", min=0)]
