"""Lines of a text file as a stream, refusing what is not text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgeq.errors import DataError

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


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers (from 1) and lines with their line ends; a leading byte order mark is dropped.

    Raises:
        DataError: the file is empty, binary, not UTF-8 (names the line), or has a line above 1 MiB.
    """
    try:
        with path.open("rb") as stream:
            _check_text(path, stream.read(_SNIFFED_BYTES))
            stream.seek(0)
            number = 0
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                yield number, _decoded(path, number, line)
    except OSError as error:
        raise DataError(f"`{path}` cannot be read: {error.strerror}") from error


def read_texts(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers and lines without line ends; a lone carriage return ends a line too."""
    for number, line in read_lines(path):
        for part in line.rstrip("\r\n").split("\r"):
            yield number, part.strip()


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


def _decoded(path: Path, number: int, line: bytes) -> str:
    if len(line) > MAX_LINE_BYTES:
        raise DataError(
            f"line {number} of `{path}` is longer than 1 MiB, expected one sample per line",
            hint="break the text into sentences or paragraphs, one per line",
        )
    if b"\0" in line:
        raise DataError(f"line {number} of `{path}` has NUL bytes: a binary file, expected text")
    try:
        return line.removeprefix(_BOM).decode("utf-8") if number == 1 else line.decode("utf-8")
    except UnicodeDecodeError as error:
        where = f"byte 0x{line[error.start]:02x} at position {error.start + 1}"
        raise DataError(
            f"line {number} of `{path}` is not UTF-8: {where}",
            hint=f"iconv -f WINDOWS-1252 -t UTF-8 {path} > {path.stem}.utf8{path.suffix}",
        ) from error
