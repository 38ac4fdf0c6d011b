"""Frozen dataclasses to JSON and back, driven by their type hints; keys of newer minor versions survive.

The one reader of what may come from anyone: every value has the type of its hint and, where the hint is `Annotated`
with `Between`, its range, or the document is refused.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import (
    Annotated,
    Any,
    Literal,
    NoReturn,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

T = TypeVar("T")

KeyPath: TypeAlias = tuple[str, ...]
"""Where a value is in a document; list items go by `id`, `name` or `path`, so reordering loses nothing."""

NOT_IN_JSON = {"json": False}
"""Field metadata: the codec neither writes nor reads the field."""
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Between:
    """In `Annotated`: the range of a number, both ends included."""

    low: float
    high: float = math.inf

    def check(self, value: Any) -> None:
        """Raise ValueError outside."""
        if not self.low <= value <= self.high:
            to = f"to {self.high}" if self.high < math.inf else "up"
            _refuse(value, f"a number from {self.low} {to}")


Count: TypeAlias = Annotated[int, Between(1, 2**31 - 1)]
"""Runtimes count in 32 bits with a sign."""
TokenId: TypeAlias = Annotated[int, Between(0, 2**31 - 1)]


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
    """A dataclass from JSON data, and the keys that `kind` does not know.

    Raises:
        ValueError: a value is missing, of another type, or outside its range; says where.
    """
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
    return get_type_hints(kind, include_extras=True)


@cache
def _json_fields(kind: Any) -> tuple[dataclasses.Field[Any], ...]:
    return tuple(field for field in dataclasses.fields(kind) if field.metadata.get("json", True))


def _decode(hint: Any, data: Any, path: KeyPath, unknown: dict[KeyPath, Any]) -> Any:
    try:
        return _value(hint, data, path, unknown)
    except _RefusedError as error:
        raise ValueError(f"at {'.'.join(path) or 'the document'}: {error}") from error


def _value(hint: Any, data: Any, path: KeyPath, unknown: dict[KeyPath, Any]) -> Any:
    origin = get_origin(hint)
    if origin is Annotated:
        value = _value(get_args(hint)[0], data, path, unknown)
        _check_bounds(get_args(hint)[1:], value)
        return value
    if origin in (Union, types.UnionType):
        return _union(get_args(hint), data, path, unknown)
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint, _checked(data, dict, "an object"), path, unknown)
    if origin is tuple:
        return _items(get_args(hint)[0], data, path, unknown)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        item_hint = get_args(hint)[1]
        found = _checked(data, dict, "an object")
        return {key: _decode(item_hint, item, (*path, key), unknown) for key, item in found.items()}
    return _scalar(hint, data)


def _check_bounds(bounds: tuple[Any, ...], value: Any) -> None:
    for bound in bounds:
        try:
            bound.check(value)
        except ValueError as error:
            raise _RefusedError(str(error)) from error


def _union(arms: tuple[Any, ...], data: Any, path: KeyPath, unknown: dict[KeyPath, Any]) -> Any:
    present = [arm for arm in arms if arm is not type(None)]
    if data is None and len(present) < len(arms):
        return None
    if len(present) == 1:
        return _decode(present[0], data, path, unknown)
    if type(data) not in present:
        _refuse(data, " or ".join(_WORDS.get(arm, str(arm)) for arm in present))
    return data


def _items(item_hint: Any, data: Any, path: KeyPath, unknown: dict[KeyPath, Any]) -> tuple[Any, ...]:
    items = enumerate(_checked(data, list, "a list"))
    return tuple(_decode(item_hint, item, (*path, _label(item, i)), unknown) for i, item in items)


def _dataclass(kind: Any, data: Mapping[str, Any], path: KeyPath, unknown: dict[KeyPath, Any]) -> Any:
    hints = _hints(kind)
    fields = {field.name: field for field in _json_fields(kind)}
    for key in data:
        if key not in fields:
            unknown[(*path, key)] = data[key]
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _decode(hints[name], data[name], (*path, name), unknown)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            if type(None) not in get_args(hints[name]):
                raise _RefusedError(f"it has no `{name}`")
            values[name] = None
    return kind(**values)


def _scalar(hint: Any, data: Any) -> Any:
    if hint is Any:
        return data
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        # By type too: True is 1.
        return (
            data
            if data in choices and isinstance(data, str)
            else _refuse(data, " or ".join(map(repr, choices)))
        )
    if issubclass(hint, Enum):
        return _member(hint, data)
    if hint is float:
        return _number(data)
    if hint is int and type(data) is float and data.is_integer() and abs(data) < 2**53:
        return int(data)  # JSON and its schema have one kind of number
    # Exactly: True is an int too.
    if type(data) is not hint:
        _refuse(data, _WORDS[hint])
    if hint is str:
        _check_text(data)
    return data


def _member(kind: type[Enum], data: Any) -> Enum:
    try:
        return kind(data)
    except ValueError:
        return _refuse(data, "one of " + ", ".join(str(member.value) for member in kind))


def _number(data: Any) -> float:
    if isinstance(data, bool) or not isinstance(data, int | float):
        _refuse(data, "a number")
    try:
        found = float(data)
    except OverflowError:
        found = math.inf
    return found if math.isfinite(found) else _refuse(data, "a number within float64")


def _check_text(data: str) -> None:
    """Half a surrogate pair is no text that UTF-8 can write, and tokenizers fail on it."""
    try:
        data.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _RefusedError(f"it is no text that UTF-8 can write: {error.reason}") from None


_WORDS: Mapping[Any, str] = {int: "a whole number", str: "text", bool: "true or false"}


def _checked(data: Any, kind: type, wanted: str) -> Any:
    return data if isinstance(data, kind) else _refuse(data, wanted)


class _RefusedError(ValueError):
    """A value that its hint does not allow; its place is added on the way up."""


def _refuse(value: Any, wanted: str) -> NoReturn:
    try:
        shown = repr(value)
    except (ValueError, RecursionError):  # an int of more digits than Python writes, or deep nesting
        shown = f"a {type(value).__name__}"
    raise _RefusedError(
        f"got {shown if len(shown) <= _SHOWN else shown[: _SHOWN - 3] + '...'}, expected {wanted}"
    )


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
