"""Tables, and which of their columns hold the texts.

Without a name given, every text-like column is read, each cell as a sample of its own; pairs are only made
when asked for. A column is text-like when at least half of its cells in the first rows are: two words or
more, or four letters of a script without spaces. When no column is, the one with a customary name (`text`,
`sentence`, ...) is taken, and a table's only column always is.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from edgeq.errors import DataError
from edgeq.samples import Sample, Text, TextPair

HEAD_ROWS = 100
CUSTOMARY = ("text", "sentence", "content", "document", "query", "question", "review", "body", "prompt")

Row = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Table:
    """Named columns and a way to go through the rows, as often as wanted.

    Attributes:
        name: for messages.
        columns: in the table's order.
        rows: a fresh pass over `(where, row)`, where being "line 7" or "row 7"; given columns, only those
        are needed.
    """

    name: str
    columns: tuple[str, ...]
    rows: Callable[[Sequence[str]], Iterator[tuple[str, Row]]]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which columns are read: each cell a sample, or two columns as pairs."""

    columns: tuple[str, ...]
    paired: bool
    chosen: bool
    """By rule and not by name."""


def select(table: Table, column: str | None) -> Selection:
    """The columns to read.

    Args:
        table: to read from.
        column: `NAME`, or `A,B` for pairs; None chooses by rule.

    Raises:
        DataError: a column is not there, or none is text-like.
    """
    if column is None:
        return Selection(_text_like_columns(table), paired=False, chosen=True)
    if column in table.columns:
        return Selection((column,), paired=False, chosen=False)
    names = tuple(name.strip() for name in column.split(","))
    for name in names:
        if name not in table.columns:
            raise _no_column(table, name)
    if len(names) > 2:
        raise DataError(f"`{column}` names {len(names)} columns, expected one, or two for pairs")
    return Selection(names, paired=len(names) == 2, chosen=False)


def samples_of(table: Table, selection: Selection) -> Iterator[Sample | None]:
    """Samples of the selected columns; None for an empty cell.

    Raises:
        DataError: a cell of a column given by name is not text.
    """
    for where, row in table.rows(selection.columns):
        texts = [_text(table, where, name, row.get(name), selection) for name in selection.columns]
        if selection.paired:
            first, second = texts
            yield TextPair(first, second) if first and second else None
        else:
            yield from (Text(text) if text else None for text in texts)


def _text(table: Table, where: str, name: str, value: object, selection: Selection) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return _encodable(table, where, name, value.strip())
    if selection.chosen:
        return ""
    got = f"{value!r:.40} ({type(value).__name__})"
    raise DataError(f"{where} of `{table.name}`: column `{name}` holds {got}, expected text")


def _encodable(table: Table, where: str, name: str, text: str) -> str:
    """JSON can spell halves of characters, which no tokenizer takes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} of `{table.name}`: column `{name}` is not valid Unicode text: {error.reason}"
        ) from error
    return text


def _text_like_columns(table: Table) -> tuple[str, ...]:
    head = [row for _, row in islice(table.rows(table.columns), HEAD_ROWS)]
    if len(table.columns) == 1:
        return table.columns
    found = tuple(name for name in table.columns if _is_text_like([row.get(name) for row in head]))
    customary = [name for name in table.columns if name.casefold() in CUSTOMARY]
    if not found and not customary:
        raise DataError(
            f"`{table.name}` has no column of text; columns: {', '.join(table.columns)}",
            hint="name one with --calib-column",
        )
    return found or (customary[0],)


def _is_text_like(values: Sequence[object]) -> bool:
    texts = [value.strip() for value in values if isinstance(value, str) and value.strip()]
    return len(texts) > 0 and 2 * sum(map(_is_phrase, texts)) >= len(texts)


def _is_phrase(text: str) -> bool:
    if sum(any(map(str.isalpha, word)) for word in text.split()) >= 2:
        return True
    return sum(char.isalpha() and ord(char) > 0x2E00 for char in text) >= 4


def _no_column(table: Table, name: str) -> DataError:
    close = difflib.get_close_matches(name, table.columns, n=1)
    folded = [known for known in table.columns if known.casefold() == name.casefold()]
    best = next(iter([*folded, *close]), None)
    return DataError(
        f"no column `{name}` in `{table.name}`; columns: {', '.join(table.columns)}",
        hint=f"--calib-column {best}" if best else "--calib-column with one of these names",
    )
