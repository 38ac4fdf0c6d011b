"""The header of a GGUF file walked before anything is built from it: nothing it claims is believed unchecked.

A damaged or hostile file of some bytes can claim 2^60 array elements, over which the `gguf` package loops, since a
slice beyond the end is empty and no error. Format: gguf.md of ggml.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path

from edgeq.errors import ModelError

MAGIC = b"GGUF"
HEADER_BYTES = 24
MOST_ENTRIES = 1 << 17
"""Tensors, and metadata keys; the largest models have some thousands."""
MOST_DIMENSIONS = 4
MOST_NESTED = 4
"""Arrays in arrays; no key of llama.cpp has any."""
MOST_VALUES = 1 << 22
"""Elements of one array; the largest vocabularies have some hundred thousand tokens and merges."""
STRING, ARRAY = 8, 9
SCALAR_BYTES: Mapping[int, int] = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""By type of a metadata value."""


def check_header(path: Path) -> None:
    """Magic, version, counts and lengths.

    Raises:
        ModelError: it is no GGUF file, of another version, truncated or damaged.
    """
    try:
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
            _check_start(path, header)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                _Walk(path, data).run(*struct.unpack("<QQ", header[8:]))
    except OSError as error:
        raise ModelError(f"`{path}` cannot be read: {error.strerror or error}") from error


def _check_start(path: Path, header: bytes) -> None:
    if header[:4] != MAGIC:
        raise ModelError(f"`{path}` is no GGUF file: it starts with {header[:4]!r}, expected {MAGIC!r}")
    if len(header) < HEADER_BYTES:
        raise ModelError(f"`{path}` is a truncated GGUF file: {len(header)} bytes")
    version, tensors, entries = struct.unpack("<IQQ", header[4:])
    if version not in (2, 3):
        wrong_order = version >> 24 in (2, 3)
        what = "is in big-endian byte order" if wrong_order else f"has GGUF version {version}"
        raise ModelError(f"`{path}` {what}, expected little-endian version 2 or 3")
    if max(tensors, entries) > MOST_ENTRIES:
        raise ModelError(f"`{path}` claims {tensors} tensors and {entries} metadata entries; it is damaged")


class _Walk:
    """A position in the header; every step is inside the file."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path, self._data, self._at = path, data, HEADER_BYTES

    def run(self, tensors: int, entries: int) -> None:
        for _ in range(entries):
            self._entry()
        for _ in range(tensors):
            self._tensor()

    def _entry(self) -> None:
        key = self._text()
        self._value(key, self._u32(), 0)

    def _value(self, key: str, kind: int, depth: int) -> None:
        if kind == STRING:
            self._text()
        elif kind == ARRAY:
            self._array(key, depth)
        elif kind in SCALAR_BYTES:
            self._skip(SCALAR_BYTES[kind])
        else:
            raise self._damaged(f"metadata `{key}` has type {kind}, which there is not")

    def _array(self, key: str, depth: int) -> None:
        kind, count = self._u32(), self._u64()
        if depth >= MOST_NESTED:
            raise self._damaged(f"metadata `{key}` nests arrays more than {MOST_NESTED} deep")
        if count > MOST_VALUES:
            raise self._damaged(f"metadata `{key}` claims {count} values, more than {MOST_VALUES}")
        if kind in SCALAR_BYTES:
            self._skip(count * SCALAR_BYTES[kind])
            return
        for _ in range(count):
            self._value(key, kind, depth + 1)

    def _tensor(self) -> None:
        name, dimensions = self._text(), self._u32()
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise self._damaged(
                f"tensor `{name}` has {dimensions} dimensions, expected 1 to {MOST_DIMENSIONS}"
            )
        shape = [self._u64() for _ in range(dimensions)]
        if 0 in shape:
            raise self._damaged(f"tensor `{name}` has shape {shape[::-1]}")
        # The smallest types have less than two bits a value; a product of counts may not wrap round either.
        if math.prod(shape) > 8 * len(self._data):
            raise self._damaged(f"tensor `{name}` of shape {shape[::-1]} reaches past the end of the file")
        self._skip(4 + 8)

    def _text(self) -> str:
        length = self._u64()
        start = self._at
        self._skip(length)
        return self._data[start : self._at].decode("utf-8", "backslashreplace")

    def _u32(self) -> int:
        self._skip(4)
        return int.from_bytes(self._data[self._at - 4 : self._at], "little")

    def _u64(self) -> int:
        self._skip(8)
        return int.from_bytes(self._data[self._at - 8 : self._at], "little")

    def _skip(self, count: int) -> None:
        if count > len(self._data) - self._at:
            raise self._damaged(f"{count} bytes are wanted at byte {self._at} of {len(self._data)}")
        self._at += count

    def _damaged(self, what: str) -> ModelError:
        return ModelError(
            f"`{self._path}` is a damaged or truncated GGUF file: {what}",
            hint="download it again, and compare its size with the original's",
        )
