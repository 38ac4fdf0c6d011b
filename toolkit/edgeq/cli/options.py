"""Option types that several commands share, and flags made of a dataclass of options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Annotated, Any

import typer

from edgeq.pipeline.flags import Flag, flags_of

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document to stdout and nothing else there.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, notices or tables.")]
Force = Annotated[bool, typer.Option("--force", help="Go on with a bundle that failed its gate.")]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.", min=0)]


def with_options(
    options: type[Any], before: Mapping[str, str] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the flags of a dataclass; its first parameter gets their values, by the names users spell.

    Args:
        options: the dataclass; see `edgeq.pipeline.options`.
        before: where parameters of the command's own go: its name, and the option that it precedes. The others follow
            all options.
    """

    def add(command: Callable[..., None]) -> Callable[..., None]:
        flags = {flag.name: flag for flag in flags_of(options).values()}
        own = _own_parameters(command)

        @wraps(command)
        def collected(**values: Any) -> None:
            given = {name: values.pop(name) for name in flags}
            command(given, **values)

        ordered = _in_order({name: _parameter(flag) for name, flag in flags.items()}, own, before or {})
        collected.__dict__["__signature__"] = inspect.Signature(ordered)
        collected.__annotations__ = {item.name: item.annotation for item in ordered}
        return collected

    return add


def _own_parameters(command: Callable[..., None]) -> list[inspect.Parameter]:
    _, *own = inspect.signature(command, eval_str=True).parameters.values()
    return [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in own]


def _in_order(
    parameters: Mapping[str, inspect.Parameter], own: list[inspect.Parameter], before: Mapping[str, str]
) -> list[inspect.Parameter]:
    placed = {before[item.name]: item for item in own if item.name in before}
    ordered = [
        item
        for name, parameter in parameters.items()
        for item in (placed.get(name), parameter)
        if item is not None
    ]
    return ordered + [item for item in own if item.name not in before]


def _parameter(flag: Flag) -> inspect.Parameter:
    """As if it were written in the command's signature."""
    is_switch = flag.reads is bool
    kind = flag.reads if is_switch else flag.reads | None
    default = _typer_info(flag, False if is_switch else None)
    return inspect.Parameter(flag.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _typer_info(flag: Flag, default: Any) -> Any:
    if flag.is_argument:
        return typer.Argument(default, help=flag.help)
    spelled = (f"--{flag.name.replace('_', '-')}", *((flag.short,) if flag.short else ()))
    return typer.Option(default, *spelled, help=flag.help, min=flag.least)
