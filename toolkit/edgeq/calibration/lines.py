"""Lines of a text file as a stream, refusing what is not text in the same words for every command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgeq.errors import DataError
from edgeq.files import not_utf8

MAX_LINE_BYTES = 1 << 20
"""A longer line is no sample, and would have to be held whole."""

_SNIFFED_BYTES = 8192
_SIGNATURES = {
    b"\x1f\x8b": "a gzip archive",
    b"PK\x03\x04": "a zip archive",
    b"PAR1": "a parquet file",
    b"%PDF": "a PDF document",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"SQLite format 3": "a database",
}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_BOM = b"\xef\xbb\xbf"


def read_lines(path: Path, *, limited: bool = True) -> Iterator[tuple[int, str]]:
    """Line numbers (from 1) and lines with their line ends; a leading byte order mark is dropped.

    Args:
        path: of the file, which may be a pipe.
        limited: refuse lines above 1 MiB.

    Raises:
        DataError: there is no such file, or it is empty, binary, not UTF-8 (names the line), or has a line that is too
            long.
    """
    try:
        with path.open("rb") as stream:
            # A pipe cannot be read twice, but be looked into.
            _check_text(path, stream.peek(_SNIFFED_BYTES)[:_SNIFFED_BYTES])
            number = 0
            while line := stream.readline(MAX_LINE_BYTES + 1 if limited else -1):
                number += 1
                yield number, _decoded(path, number, line, limited=limited)
    except FileNotFoundError as error:
        raise DataError(f"there is no file `{path}`") from error
    except IsADirectoryError as error:
        raise DataError(f"`{path}` is a folder, expected a text file") from error
    except OSError as error:
        raise DataError(f"`{path}` cannot be read: {error.strerror}") from error


def read_texts(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers and lines without line ends; a lone carriage return ends a line too."""
    for number, line in read_lines(path):
        for part in line.rstrip("\r\n").split("\r"):
            yield number, part.strip()


def decode_text(data: bytes, name: str) -> str:
    """All of a text at once, such as standard input.

    Args:
        data: its bytes.
        name: of where they came from, for the error.

    Raises:
        DataError: they are not UTF-8; names the line.
    """
    try:
        return data.removeprefix(_BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        hint = "iconv -f WINDOWS-1252 -t UTF-8 FILE | edgeq ..."
        raise DataError(not_utf8(name, error), hint=hint) from error


def _check_text(path: Path, head: bytes) -> None:
    if not head:
        raise DataError(f"`{path}` is empty, expected one sample per line")
    if head.startswith(_UTF16):
        raise DataError(
            f"`{path}` is UTF-16, expected UTF-8",
            hint=f"iconv -f UTF-16 -t UTF-8 {path} > {path.stem}.utf8{path.suffix}",
        )
    for signature, kind in _SIGNATURES.items():
        if head.startswith(signature):
            raise DataError(f"`{path}` is {kind}, expected text", hint="check the file and its suffix")
    control = sum(byte < 32 and byte not in b"\t\n\r\f\v\x1b" for byte in head)
    if control > len(head) // 20:
        raise DataError(f"`{path}` is a binary file, expected text", hint="check the file and its suffix")


def _decoded(path: Path, number: int, line: bytes, *, limited: bool) -> str:
    if limited and len(line) > MAX_LINE_BYTES:
        raise DataError(
            f"line {number} of `{path}` is longer than 1 MiB, expected one sample per line",
            hint="break the text into sentences or paragraphs, one per line",
        )
    if b"\0" in line:
        raise DataError(f"line {number} of `{path}` has NUL bytes: a binary file, expected text")
    try:
        return line.removeprefix(_BOM).decode("utf-8") if number == 1 else line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            not_utf8(f"`{path}`", error, number),
            hint=f"iconv -f WINDOWS-1252 -t UTF-8 {path} > {path.stem}.utf8{path.suffix}",
        ) from error
