"""`edgeq targets`: what an export can be made for."""

from __future__ import annotations

import typer

from edgeq.cli.options import Json
from edgeq.cli.output import Out
from edgeq.targets import TARGETS, get_target


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("targets")(targets)


def targets(json: Json = False) -> None:
    """List the targets, their precisions and their variants."""
    from edgeq.quantize.recipes import load_recipe

    out = Out(json_mode=json)
    found = [get_target(name) for name in TARGETS]
    recipe = load_recipe("int8")
    out.result(
        {
            "targets": [
                {
                    "name": target.name,
                    "title": target.title,
                    "precisions": [str(precision) for precision in target.precisions],
                    "own_precisions": dict(target.own_precisions),
                    "variants": [spec.engine for spec in target.variants(recipe)],
                }
                for target in found
            ]
        }
    )
    rows = [
        (
            target.name,
            ", ".join([*target.precisions, *target.own_precisions]),
            ", ".join(s.engine for s in target.variants(recipe)),
            target.title,
        )
        for target in found
    ]
    out.table(None, ("target", "precisions", "variants", ""), rows)
