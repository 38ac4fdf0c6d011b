"""Flags, `edgeq.toml` and a recipe file become one checked set of options. Unknown keys are errors."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgeq.errors import ConfigError
from edgeq.files import not_utf8

CONFIG_FILE = "edgeq.toml"

Types = type | tuple[type, ...]


def read_export_config(
    flags: Mapping[str, Any], folder: Path, notify: Callable[[str], None], keys: Mapping[str, Types]
) -> dict[str, Any]:
    """Options from `edgeq.toml` where there is one, overridden by flags that were given.

    Args:
        flags: by name; None, False and no values mean not given.
        folder: where `edgeq.toml` may be.
        notify: told when the file is used.
        keys: of the file's `[export]` table, and their types.

    Raises:
        ConfigError: the file is not TOML, or has a key or a type that is not known.
    """
    given = {
        name: value
        for name, value in flags.items()
        if value is not None and value is not False and value != []
    }
    path = folder / CONFIG_FILE
    if given.get("model") is not None or not path.is_file():
        return given
    settings = _read_toml(path, keys)
    notify(f"options from {CONFIG_FILE} in the current folder")
    return {**settings, **given}


def _read_toml(path: Path, keys: Mapping[str, Types]) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(not_utf8(f"`{path.name}`", error)) from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"`{path.name}` is not valid TOML: {error}") from error
    check_keys(document, ("export",), path.name)
    settings = document.get("export", {})
    if not isinstance(settings, dict):
        raise ConfigError(f"`export` in `{path.name}` must be a table")
    check_keys(settings, tuple(keys), f"[export] of {path.name}")
    for name, value in settings.items():
        expected = keys[name]
        if not isinstance(value, expected) or isinstance(value, bool):
            raise ConfigError(f"`{name}` in `{path.name}` is {value!r}, expected {_type_name(expected)}")
    return settings


def check_keys(document: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    """Refuse keys that nobody reads.

    Raises:
        ConfigError: names the key and, where one is near, the key that may have been meant.
    """
    for key in document:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(known)}"
            raise ConfigError(f"unknown key `{key}` in {where}", hint=hint)


def _type_name(expected: Types) -> str:
    types = expected if isinstance(expected, tuple) else (expected,)
    return " or ".join(kind.__name__ for kind in types)
