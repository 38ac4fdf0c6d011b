"""`edgeq recipes`: the built-in recipes; `edgeq recipes show NAME` prints one as YAML."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from edgeq.cli.output import Out

_JSON = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")]


def register(app: typer.Typer) -> None:
    """Add the command and its `show`."""
    recipes = typer.Typer(
        help="List the recipes `--precision` takes, or print one to edit.", invoke_without_command=True
    )
    recipes.callback()(list_recipes)
    recipes.command("show")(show_recipe)
    app.add_typer(recipes, name="recipes")


def list_recipes(context: typer.Context, json: _JSON = False) -> None:
    """List the recipes `--precision` takes."""
    if context.invoked_subcommand is not None:
        return
    from edgeq.quantize.recipes import BUILT_IN, load_recipe

    out = Out(json_mode=json)
    found = [load_recipe(name) for name in BUILT_IN]
    out.table(None, ["recipe", "what it is"], [[recipe.name, recipe.summary] for recipe in found])
    out.notice("edgeq recipes show NAME prints one as YAML; edit it and pass it with --recipe FILE.yaml")
    out.result([{"name": r.name, "summary": r.summary, "gguf": r.gguf} for r in found])


def show_recipe(
    name: Annotated[str, typer.Argument(help="A built-in recipe, or a recipe file.", show_default=False)],
    json: _JSON = False,
) -> None:
    """Print one recipe as YAML, every default written out."""
    from edgeq.quantize.recipes import load_recipe

    recipe = load_recipe(name)
    Out(json_mode=json).result(asdict(recipe), recipe.to_yaml().rstrip())
