"""Tables in files: .csv, .tsv, .jsonl and .parquet, row by row."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from edgeq.calibration.columns import HEAD_ROWS, Row, Table
from edgeq.calibration.lines import MAX_LINE_BYTES, read_lines
from edgeq.errors import DataError, MissingExtraError

_NAME = re.compile(r"[^\W\d][\w.\-/()#]*( [\w.\-/()#]+){0,2}")
"""What a column is called: at most three words, beginning with a letter, no sentence punctuation."""


def delimited(path: Path) -> Table:
    """A .csv or .tsv file.

    The first row is the header when all its cells look like names and differ; else columns are called 1, 2,
    3. In .csv, quotes follow RFC 4180 (strictly: an unbalanced quote would swallow lines), and the delimiter
    is `;` when the first line has that and no comma. In .tsv a quote is a character like any other, because
    such files quote nothing and texts begin with quotes; only a cell that is quoted as a whole, its inner
    quotes doubled, is unquoted.

    Raises:
        DataError: the file is empty or malformed.
    """
    rows = _tsv_rows if path.suffix.lower() != ".csv" else _csv_rows
    first = next((cells for _, cells in rows(path) if any(cells)), None)
    if first is None:
        raise DataError(f"`{path}` has no rows")
    has_header = _is_header(first)
    columns = tuple(first) if has_header else tuple(str(index + 1) for index in range(len(first)))

    def named(_: Sequence[str]) -> Iterator[tuple[str, Row]]:
        filled = ((number, cells) for number, cells in rows(path) if any(cells))
        for number, cells in islice(filled, int(has_header), None):
            _check_width(path, number, cells, columns)
            yield f"line {number}", dict(zip(columns, cells, strict=False))

    return Table(path.name, columns, named)


def json_lines(path: Path) -> Table:
    """A .jsonl file: one object, text, or list of texts on each line.

    A plain text is column `text`; the items of a list are columns 1, 2. Columns are those of the first rows
    together.

    Raises:
        DataError: a line is not JSON, or something else than these.
    """

    def rows(_: Sequence[str]) -> Iterator[tuple[str, Row]]:
        for number, line in read_lines(path):
            if line.strip():
                yield f"line {number}", _json_row(path, number, line)

    head = [row for _, row in islice(rows(()), HEAD_ROWS)]
    if not head:
        raise DataError(f"`{path}` has no rows")
    return Table(path.name, tuple(dict.fromkeys(chain.from_iterable(head))), rows)


def parquet(path: Path) -> Table:
    """A .parquet file, read in batches of rows and only the columns needed.

    Raises:
        MissingExtraError: pyarrow is not installed.
        DataError: the file is damaged.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("reading .parquet files", "data") from error

    def rows(columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
        try:
            with pq.ParquetFile(path) as file:
                batches = file.iter_batches(batch_size=1024, columns=list(columns))
                numbered = enumerate((row for batch in batches for row in batch.to_pylist()), 1)
                yield from ((f"row {number}", row) for number, row in numbered)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"`{path}` is not a readable parquet file: {error}") from error

    try:
        with pq.ParquetFile(path) as file:
            columns = tuple(file.schema_arrow.names)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"`{path}` is not a readable parquet file: {error}") from error
    return Table(path.name, columns, rows)


def is_tab_separated(path: Path, lines: int = 20) -> bool:
    """Whether the first lines of a .txt file all have the same number of tabs, one or more."""
    texts = (line for _, line in read_lines(path) if line.strip())
    tabs = {line.count("\t") for line in islice(texts, lines)}
    return len(tabs) == 1 and tabs != {0}


def _is_header(cells: Sequence[str]) -> bool:
    names = [cell.strip() for cell in cells]
    return len(set(names)) == len(names) and all(len(name) <= 40 and _NAME.fullmatch(name) for name in names)


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    lines = (line for _, line in read_lines(path))
    first = next(lines, "")
    delimiter = ";" if ";" in first and "," not in first else ","
    # A text in quotes may span lines; each line is limited by itself.
    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(
            f"line {reader.line_num} of `{path}` is not CSV: {error}", hint=_csv_hint(str(error), path)
        ) from error


def _csv_hint(message: str, path: Path) -> str:
    if "new-line character" in message:
        return f"its lines end in carriage returns alone: tr '\\r' '\\n' < {path} > {path.stem}.lines.csv"
    if "end of data" in message:
        return "a quote that opens a cell is never closed"
    return 'put a text that has quotes in quotes, and double the quotes in it: "say ""hi"""'


def _tsv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in read_lines(path):
        yield number, [_unquoted(cell) for cell in line.rstrip("\r\n").split("\t")] if line.strip() else []


def _unquoted(cell: str) -> str:
    inner = cell[1:-1]
    if len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return cell


def _check_width(path: Path, number: int, cells: Sequence[str], columns: Sequence[str]) -> None:
    # Tab-separated sets in use (STS benchmark) append columns to some rows; a comma too many cuts a text.
    strict = path.suffix.lower() == ".csv"
    if len(cells) < len(columns) or (strict and len(cells) > len(columns)):
        expected = f"{len(columns)}: {', '.join(columns)}"
        raise DataError(f"line {number} of `{path}` has {len(cells)} columns, expected {expected}")


def _json_row(path: Path, number: int, line: str) -> Row:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"line {number} of `{path}` is not JSON: {error}") from error
    if isinstance(value, dict):
        return value
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, list):
        return {str(index + 1): item for index, item in enumerate(value)}
    raise DataError(
        f"line {number} of `{path}` is {type(value).__name__}, expected an object, a text or a list of texts"
    )
