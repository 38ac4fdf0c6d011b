"""Recipes from YAML; anything unknown is an error."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from edgeq.errors import ConfigError
from edgeq.files import not_utf8
from edgeq.quantize.formats import BLOCK_SIZES, FORMATS, PER_CHANNEL
from edgeq.quantize.methods import METHODS
from edgeq.quantize.recipes.layers import SELECTORS, is_selector
from edgeq.quantize.recipes.roles import KNOWN_ROLES
from edgeq.quantize.recipes.schema import (
    LayerSpec,
    Match,
    Recipe,
    RecipeExport,
    Rule,
    StaticOptions,
)

BUILT_IN: tuple[str, ...] = (
    "fp32",
    "fp16",
    "int8",
    "q8-static",
    "q8",
    "q6",
    "palette6",
    "q5_k_m",
    "q4_k_m",
    "q4_k_s",
    "q4",
    "w4a8",
    "int4",
    "palette4",
    "stored",
)
"""Names of the recipes in this folder, from most to fewest bits."""

MAX_RECIPE_BYTES = 1 << 20

_TYPES: dict[str, tuple[type, ...]] = {
    "format": (str,),
    "bits": (int,),
    "block_size": (int,),
    "symmetric": (bool,),
    "method": (str,),
    "alpha": (float, int, type(None)),
    "range_method": (str, type(None)),
    "rounding": (str, type(None)),
    "bias_correction": (bool, type(None)),
    "seq_len": (int, list, type(None)),
    "calib_samples": (int, type(None)),
    "seed": (int, type(None)),
    "ios": (int, type(None)),
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CHOICES: dict[str, tuple[Any, ...]] = {
    "format": tuple(FORMATS),
    "method": tuple(METHODS),
    "bits": tuple(sorted({bits for kind in FORMATS.values() for bits in kind.widths})),
    "block_size": (PER_CHANNEL, *BLOCK_SIZES),
    "range_method": ("min-max", "percentile", "mse", "entropy", None),
    "rounding": ("nearest", "error-feedback", None),
}


def load_recipe(name_or_path: str | Path) -> Recipe:
    """A built-in recipe by name, or one from a YAML file.

    Raises:
        ConfigError: no such recipe or file, YAML that does not parse, unknown or wrong keys and values.
    """
    text = str(name_or_path)
    if text in BUILT_IN:
        return parse_recipe((Path(__file__).parent / f"{text}.yaml").read_text("utf-8"), source=text)
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise ConfigError(f"no recipe file `{path}`", hint="edgeq recipes")
        return parse_recipe(_read(path), source=text)
    raise ConfigError(
        f"unknown recipe `{text}`; expected one of {', '.join(BUILT_IN)}, or a .yaml file",
        hint=_suggestion(text, BUILT_IN) or "edgeq recipes",
    )


def _read(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_RECIPE_BYTES:
            raise ConfigError(f"`{path}` has {size} bytes; a recipe has at most {MAX_RECIPE_BYTES}")
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(not_utf8(f"`{path}`", error)) from error
    except OSError as error:
        raise ConfigError(f"`{path}` cannot be read: {error.strerror or error}") from error


def parse_recipe(text: str, *, source: str = "recipe") -> Recipe:
    """A recipe from YAML text; `source` names it in errors.

    Raises:
        ConfigError: see `load_recipe`.
    """
    import yaml

    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"recipe `{source}` is not YAML: {str(error).splitlines()[0]}") from error
    where = f"recipe `{source}`"
    keys = _checked(document, ("name", "summary", "gguf", "default", "rules", "static_int8", "export"), where)
    for key in ("name", "default"):
        if key not in keys:
            raise ConfigError(f"{where} has no `{key}`")
    rules = keys.get("rules", [])
    if not isinstance(rules, list):
        raise ConfigError(f"`rules` of {where} is {type(rules).__name__}; expected a list")
    return Recipe(
        name=_name(keys, where),
        summary=_text(keys, "summary", where),
        gguf=_text(keys, "gguf", where),
        default=LayerSpec(**_values(keys["default"], LayerSpec, f"`default` of {where}")),
        rules=tuple(_rule(rule, f"rule {number} of {where}") for number, rule in enumerate(rules, start=1)),
        static_int8=StaticOptions(
            **_values(keys.get("static_int8", {}), StaticOptions, f"`static_int8` of {where}")
        ),
        export=_export_options(keys.get("export", {}), f"`export` of {where}"),
    )


def _export_options(document: Any, where: str) -> RecipeExport:
    values = _values(document, RecipeExport, where)
    lengths = values.get("seq_len")
    if isinstance(lengths, list):
        if not lengths or not all(type(item) is int for item in lengths):
            raise ConfigError(f"`seq_len` in {where} is {lengths!r}; expected a number or a list of numbers")
        values["seq_len"] = tuple(lengths)
    return RecipeExport(**values)


def _rule(document: Any, where: str) -> Rule:
    keys = _checked(document, ("match", "set", "optional"), where)
    if "match" not in keys or "set" not in keys:
        raise ConfigError(f"{where} needs `match` and `set`")
    match = _checked(keys["match"], ("role", "layers", "name"), f"`match` of {where}")
    changes = _values(keys["set"], LayerSpec, f"`set` of {where}")
    if not match or not changes:
        raise ConfigError(f"{where} has an empty `{'set' if match else 'match'}`")
    optional = keys.get("optional", False)
    if not isinstance(optional, bool):
        raise ConfigError(f"`optional` of {where} is {optional!r}; expected true or false")
    roles = _patterns(match.get("role", []), "role", where)
    for role in roles:
        _check_role(role, where)
    names = _patterns(match.get("name", []), "name", where)
    return Rule(
        Match(roles, _layers(match.get("layers", "all"), where), names), tuple(changes.items()), optional
    )


def _patterns(value: Any, key: str, where: str) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise ConfigError(f"`{key}` of {where} is {value!r}; expected a pattern or a list of patterns")
    return tuple(items)


def _check_role(role: str, where: str) -> None:
    from fnmatch import fnmatchcase

    if not any(fnmatchcase(known, role) for known in KNOWN_ROLES):
        raise ConfigError(
            f"unknown role `{role}` in {where}; expected one of {', '.join(KNOWN_ROLES)}",
            hint=_suggestion(role, KNOWN_ROLES),
        )


def _layers(value: Any, where: str) -> str | tuple[int, ...]:
    if isinstance(value, str) and is_selector(value):
        return value
    if isinstance(value, list) and value and all(type(item) is int for item in value):
        return tuple(value)
    hint = _suggestion(value, SELECTORS) if isinstance(value, str) else None
    raise ConfigError(
        f"`layers` of {where} is {value!r}; expected {', '.join(SELECTORS)} or a list of numbers", hint=hint
    )


def _values(document: Any, schema: type, where: str) -> dict[str, Any]:
    """Keys and values of a mapping checked against a dataclass's fields."""
    values = _checked(document, [field.name for field in fields(schema)], where)
    for key, value in values.items():
        # bool is an int to isinstance; `bits: true` is not 1 bit.
        wrong = isinstance(value, bool) and bool not in _TYPES[key]
        if wrong or not isinstance(value, _TYPES[key]):
            raise ConfigError(f"`{key}` in {where} is {value!r}; expected {_TYPES[key][0].__name__}")
        if key in _CHOICES and value not in _CHOICES[key]:
            raise ConfigError(
                f"`{key}` in {where} is {value!r}; expected one of {', '.join(map(str, _CHOICES[key]))}",
                hint=_suggestion(str(value), [str(choice) for choice in _CHOICES[key]]),
            )
        if key == "alpha" and isinstance(value, (int, float)) and not 0 <= value <= 1:
            raise ConfigError(f"`alpha` in {where} is {value}; expected 0 to 1")
    return values


def _checked(document: Any, known: Iterable[str], where: str) -> dict[str, Any]:
    """A mapping with only known keys."""
    if not isinstance(document, Mapping):
        raise ConfigError(f"{where} is {type(document).__name__}; expected keys and values")
    known = list(known)
    for key in document:
        if key not in known:
            raise ConfigError(
                f"unknown key `{key}` in {where}; expected {', '.join(known)}",
                hint=_suggestion(str(key), known),
            )
    return dict(document)


def _name(keys: Mapping[str, Any], where: str) -> str:
    """The name, which becomes part of variant ids and folder names."""
    name = _text(keys, "name", where)
    if not _NAME.fullmatch(name):
        raise ConfigError(f"`name` of {where} is {name!r}; expected letters, digits, `.`, `_` or `-`")
    return name


def _text(keys: Mapping[str, Any], key: str, where: str) -> str:
    value = keys.get(key, "")
    if not isinstance(value, str):
        raise ConfigError(f"`{key}` of {where} is {value!r}; expected text")
    return value


def _suggestion(given: str, known: Iterable[str]) -> str | None:
    close = get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f"did you mean `{close[0]}`?" if close else None
