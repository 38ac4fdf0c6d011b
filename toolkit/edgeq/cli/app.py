"""The command table: one module per command, imported when the command line is built."""

from __future__ import annotations

from typing import Annotated

import typer

from edgeq.version import __version__

# Adding a command: one module with `register(app)`, one name here.
COMMANDS: tuple[str, ...] = (
    "export",
    "validate",
    "run",
    "bench",
    "pack",
    "inspect",
    "check",
    "diff",
    "targets",
    "recipes",
    "advise",
    "explain",
    "tune",
    "cache",
    "doctor",
)


def build_app() -> typer.Typer:
    """The Typer application with every command."""
    from importlib import import_module

    app = typer.Typer(
        name="edgeq",
        help="Export a Hugging Face transformer, quantize it with your data, and write a verified bundle for phones.",
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for name in COMMANDS:
        import_module(f"edgeq.cli.{name}").register(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"edgeq {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """The options before the command."""
