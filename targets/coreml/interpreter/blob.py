"""Core ML's weight file: 64-byte aligned records, each a header that points at its data."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

import numpy as np

from edgeq.errors import IntegrityError
from edgeq.types import Array

_SENTINEL = 0xDEADBEEF
_HEADER = struct.Struct("<IIQQQ")
"""Sentinel, element type, size in bytes, data offset, padding bits."""

_WHOLE = {1: "<f2", 2: "<f4", 3: "u1", 4: "i1", 6: "<i2", 7: "<u2", 14: "<i4", 15: "<u4"}
"""Blob element types that fill whole bytes."""

_PACKED = {8: (4, True), 9: (1, False), 10: (2, False), 11: (4, False), 12: (3, False), 13: (6, False)}
"""Blob element types in fewer bits: width, whether signed."""


class BlobFile:
    """A weight file, mapped into memory.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def read(self, offset: int, count: int) -> Array:
        """The record whose header is at `offset`, as `count` elements; sub-byte ones as 8-bit integers.

        Raises:
            IntegrityError: no record of that many elements lies there.
        """
        if offset < 0 or offset + _HEADER.size > len(self._data):
            raise IntegrityError(
                f"a weight at byte {offset} lies outside the weight file ({len(self._data)} bytes)"
            )
        sentinel, kind, size, start, _ = _HEADER.unpack_from(self._data, offset)
        if sentinel != _SENTINEL or start + size > len(self._data):
            raise IntegrityError(f"no weight record at byte {offset} of the weight file")
        values = _decode(self._data[start : start + size], kind)
        if len(values) < count or (kind in _WHOLE and len(values) != count):
            raise IntegrityError(f"the weight at byte {offset} has {len(values)} elements, expected {count}")
        return values[:count]


def _decode(data: memoryview, kind: int) -> Array:
    if kind in _WHOLE:
        return np.frombuffer(data, _WHOLE[kind])
    if kind not in _PACKED:
        raise IntegrityError(f"weight record of unknown element type {kind}")
    bits, is_signed = _PACKED[kind]
    codes = unpack_lsb_first(np.frombuffer(data, np.uint8), bits)
    return (codes.astype(np.int8) ^ 8) - 8 if is_signed else codes


def unpack_lsb_first(data: Array, bits: int) -> Array:
    """Codes of `bits` each out of bytes, least significant bit first, across byte borders."""
    if bits == 4:
        return np.stack([data & 0xF, data >> 4], axis=1).reshape(-1)
    if bits == 8:
        return data
    flags = np.unpackbits(data, bitorder="little")
    whole = flags[: len(flags) // bits * bits].reshape(-1, bits)
    return np.asarray((whole << np.arange(bits, dtype=np.uint8)).sum(axis=1, dtype=np.uint8))
