"""JSON that may come from anyone: bounded before it is parsed, and nothing in it that Python or UTF-8 cannot hold."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

MAX_VALUES = 1 << 20
"""Values of a document; commas in texts count too, since they are counted before anything is parsed."""
MAX_DEPTH = 64
MAX_DIGITS = 20
"""Of whole numbers: 64 bits have as many."""


def read_document(path: Path, *, max_bytes: int, max_values: int = MAX_VALUES) -> Any:
    """The JSON document in a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger than `max_bytes`, or as `parse`.
    """
    size = path.stat().st_size
    if size > max_bytes:
        raise ValueError(f"it has {size} bytes, expected at most {max_bytes}")
    return parse(path.read_bytes(), max_values=max_values)


def parse(text: str | bytes, *, max_values: int = MAX_VALUES) -> Any:
    """A JSON document.

    Raises:
        ValueError: it is not JSON in UTF-8 (nor are repeated keys, NaN, numbers beyond float64 or 64 bits, and halves
            of surrogate pairs), has more than `max_values` values, or is nested too deeply.
    """
    text = text if isinstance(text, str) else text.decode("utf-8")
    values = text.count(",") + text.count("[") + text.count("{")
    if values > max_values:
        raise ValueError(f"it has some {values} values, expected at most {max_values}")
    try:
        document = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    _check(document, may_have_halves="\\u" in text)
    return document


def _check(document: Any, *, may_have_halves: bool) -> None:
    """Depth, and whether texts can be written; without recursion, which deep documents would exhaust."""
    level, depth = [document], 0
    while level:
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested too deeply, expected at most {MAX_DEPTH} levels")
        if may_have_halves:
            for value in level:
                if isinstance(value, str):
                    value.encode("utf-8")
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += value.keys()
                below += value.values()
            elif isinstance(value, list):
                below += value
        level, depth = below, depth + 1


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {repeated!r:.80} is there twice")
    return document


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"got {digits:.20}, expected a number within float64")
    return number


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"got {digits:.20}..., expected a whole number of at most {MAX_DIGITS} digits")
    return int(digits)
