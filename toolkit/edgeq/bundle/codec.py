"""Frozen dataclasses to JSON and back, driven by their type hints; keys of newer minor versions survive."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import Any, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

KeyPath: TypeAlias = tuple[str, ...]
"""Where a value is in a document; list items go by `id`, `name` or `path`, so reordering loses nothing."""

NOT_IN_JSON = {"json": False}
"""Field metadata: the codec neither writes nor reads the field."""


def encode(value: Any) -> Any:
    """JSON data of a dataclass (fields that are None are left out), tuple, mapping, enum or scalar."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((field.name, encode(getattr(value, field.name))) for field in _json_fields(type(value)))
        return {name: data for name, data in fields if data is not None}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    return value


def decode(kind: type[T], data: Any) -> tuple[T, dict[KeyPath, Any]]:
    """A dataclass from JSON data that its schema has accepted, and the keys that `kind` does not know."""
    unknown: dict[KeyPath, Any] = {}
    return _decode(kind, data, (), unknown), unknown


def restore(document: dict[str, Any], unknown: Mapping[KeyPath, Any]) -> None:
    """Put unknown keys back into an encoded document, where their parents still exist."""
    for path, value in unknown.items():
        parent = _find(document, path[:-1])
        if isinstance(parent, dict):
            parent.setdefault(path[-1], value)


def finite(value: Any) -> Any:
    """NaN and infinities as None: JSON has no word for them."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _json_fields(kind: Any) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(kind) if field.metadata.get("json", True)]


def _decode(hint: Any, data: Any, path: KeyPath, unknown: dict[KeyPath, Any]) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _decode_union(get_args(hint), data, path, unknown)
    if dataclasses.is_dataclass(hint):
        return _decode_dataclass(hint, data, path, unknown)
    if origin is tuple:
        item_hint = get_args(hint)[0]
        items = enumerate(data)
        return tuple(_decode(item_hint, item, (*path, _label(item, i)), unknown) for i, item in items)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(data)
    return float(data) if hint is float else data


def _decode_union(arms: tuple[Any, ...], data: Any, path: KeyPath, unknown: dict[KeyPath, Any]) -> Any:
    present = [arm for arm in arms if arm is not type(None)]
    if data is None or len(present) != 1:
        return data
    return _decode(present[0], data, path, unknown)


def _decode_dataclass(kind: Any, data: Mapping[str, Any], path: KeyPath, unknown: dict[KeyPath, Any]) -> Any:
    hints = _hints(kind)
    names = [field.name for field in _json_fields(kind)]
    for key in data:
        if key not in names:
            unknown[(*path, key)] = data[key]
    values = {
        name: _decode(hints[name], data[name], (*path, name), unknown) for name in names if name in data
    }
    for field in _json_fields(kind):
        has_default = (
            field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        )
        if field.name not in values and not has_default:
            values[field.name] = None
    return kind(**values)


def _label(item: Any, index: int) -> str:
    if isinstance(item, dict):
        for key in ("id", "name", "path"):
            if isinstance(item.get(key), str):
                return str(item[key])
    return str(index)


def _find(node: Any, path: KeyPath) -> Any:
    for segment in path:
        if isinstance(node, dict):
            node = node.get(segment)
        elif isinstance(node, list):
            node = next((item for i, item in enumerate(node) if _label(item, i) == segment), None)
        else:
            return None
    return node
