"""Options as fields of a dataclass, and what is made of them: flags, keys of a file, keywords of a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from edgeq.config import Types

Keywords = ParamSpec("Keywords")
Asked = TypeVar("Asked")
Result = TypeVar("Result")
FILE_TYPES: Mapping[Any, Types | None] = {
    str: str,
    Path: str,
    int: int,
    list[str]: (str, list),
    bool: None,
}
"""What `edgeq.toml` takes where a flag takes this; None for what is asked for anew each time."""


@dataclass(frozen=True, slots=True)
class Flag:
    """How an option is spelled outside Python.

    Attributes:
        help: what `--help` says.
        short: its one letter, such as `-t`.
        name: on the command line and in `edgeq.toml`; the field's when empty.
        reads: type of a flag's value; `list[str]` is repeated, `bool` has none.
        least: smallest number.
        in_file: what `edgeq.toml` takes, where `FILE_TYPES` does not say it.
        is_argument: it is no flag but what the command is about.
    """

    help: str
    short: str = ""
    name: str = ""
    reads: Any = str
    least: int | None = None
    in_file: Types | None = None
    is_argument: bool = False

    @property
    def file_types(self) -> Types | None:
        """What `edgeq.toml` takes; None where it has no such key."""
        return self.in_file or FILE_TYPES[self.reads]


def flag(help: str, **how: Any) -> dict[str, Flag]:
    """The metadata of an option's field; see `Flag`."""
    return {"flag": Flag(help, **how)}


def flags_of(options: type[Any]) -> dict[str, Flag]:
    """The flags of a dataclass of options, by field and in the order of its fields, with their names filled in."""
    flags = {item.name: item.metadata["flag"] for item in fields(options) if "flag" in item.metadata}
    return {name: replace(found, name=found.name or name) for name, found in flags.items()}


def file_keys(options: type[Any]) -> dict[str, Types]:
    """Keys of the options' table in `edgeq.toml`, and their types."""
    found = {item.name: item.file_types for item in flags_of(options).values()}
    return {name: types for name, types in found.items() if types is not None}


def with_keywords(
    options: Callable[Keywords, Asked],
) -> Callable[[Callable[[Asked], Result]], Callable[Keywords, Result]]:
    """Call a function of one dataclass with what makes that dataclass.

    Args:
        options: the dataclass; its constructor's signature becomes the function's, and its flags' help the
            description of the arguments.
    """

    def spread(function: Callable[[Asked], Result]) -> Callable[Keywords, Result]:
        @wraps(function)
        def called(*args: Keywords.args, **keywords: Keywords.kwargs) -> Result:
            return function(options(*args, **keywords))

        returned = inspect.signature(function).return_annotation
        signature = inspect.signature(options).replace(return_annotation=returned)
        called.__dict__["__signature__"] = signature
        called.__doc__ = f"{inspect.getdoc(function)}\n\nArgs:\n{_described(options)}"
        return called

    return spread


def _described(options: Any) -> str:
    described = flags_of(options).items()
    return "\n".join(f"    {name}: {item.help}" for name, item in described)
