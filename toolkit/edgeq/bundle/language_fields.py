"""Reads `golden/language.json`, which may come from anyone: every value has its type and range, or it is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar

MAX_LANGUAGE_BYTES = 16 << 20
"""What is recorded takes some 100 kB."""
MAX_TOKEN_ID = 2**31 - 1
"""Runtimes count tokens in 32 bits with a sign."""
MAX_SETTING = 1000
"""Bytes of a setting's JSON; longer ones are recorded as their hash."""
_SHOWN = 60

Item = TypeVar("Item")


def read_document(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ValueError: it is larger than expected, not UTF-8, not JSON (nor are NaN and numbers beyond float64), or no
            object.
        RecursionError: it is nested too deeply.
    """
    size = path.stat().st_size
    if size > MAX_LANGUAGE_BYTES:
        raise ValueError(f"it has {size} bytes, expected at most {MAX_LANGUAGE_BYTES}")
    text = path.read_bytes().decode("utf-8")
    return obj(json.loads(text, parse_float=_finite, parse_constant=_no_constant))


def obj(value: Any) -> dict[str, Any]:
    """An object."""
    return value if isinstance(value, dict) else _refuse(value, "an object")


def items(value: Any, read: Callable[[Any], Item]) -> tuple[Item, ...]:
    """A list, each of its items read."""
    return tuple(read(item) for item in value) if isinstance(value, list) else _refuse(value, "a list")


def text(value: Any) -> str:
    """Text that UTF-8 can write: lone surrogates are none, and tokenizers fail on them."""
    if not isinstance(value, str):
        _refuse(value, "text")
    value.encode("utf-8")
    return value


def text_or_none(value: Any) -> str | None:
    """Text or null."""
    return None if value is None else text(value)


def flag(value: Any) -> bool:
    """True or false."""
    return value if isinstance(value, bool) else _refuse(value, "true or false")


def token_id(value: Any) -> int:
    """A token id."""
    # Exactly: True is an int too.
    if type(value) is not int or not 0 <= value <= MAX_TOKEN_ID:
        _refuse(value, f"a whole number from 0 to {MAX_TOKEN_ID}")
    return value


def token_ids(value: Any) -> tuple[int, ...]:
    """A list of token ids."""
    return items(value, token_id)


def number(value: Any) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        _refuse(value, "a number")
    return _finite(value)


def not_negative(value: Any) -> float:
    """A finite number from 0 up."""
    found = number(value)
    return found if found >= 0 else _refuse(value, "a number from 0 up")


def iso_time(value: Any) -> str:
    """A time, as ISO 8601 writes it."""
    datetime.fromisoformat(text(value))
    return str(value)


def texts_by_key(value: Any) -> dict[str, str]:
    """An object of texts."""
    return {text(key): text(item) for key, item in obj(value).items()}


def tokens_by_id(value: Any) -> dict[str, str]:
    """An object of tokens, its keys ids in decimal."""
    found = texts_by_key(value)
    for key in found:
        # `int` alone would take signs, spaces and digits of other scripts.
        if not (key.isascii() and key.isdigit() and str(token_id(int(key))) == key):
            _refuse(key, "a token id in decimal")
    return found


def settings(value: Any) -> dict[str, Mapping[str, Any]]:
    """By file, then by key."""
    return {
        text(name): {text(key): _setting(item) for key, item in obj(values).items()}
        for name, values in obj(value).items()
    }


def _setting(value: Any) -> Any:
    """JSON as short as it is recorded: what is nested any deeper is neither compared nor printed safely."""
    size = len(json.dumps(value, ensure_ascii=False).encode("utf-8"))
    return value if size <= MAX_SETTING else _refuse(value, f"at most {MAX_SETTING} bytes of JSON")


def _finite(value: str | float) -> float:
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    return found if math.isfinite(found) else _refuse(value, "a number within float64")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _refuse(value: Any, wanted: str) -> NoReturn:
    try:
        shown = repr(value)
    except ValueError:  # an int of more digits than Python writes
        shown = f"a {type(value).__name__}"
    raise ValueError(
        f"got {shown if len(shown) <= _SHOWN else shown[: _SHOWN - 3] + '...'}, expected {wanted}"
    )
