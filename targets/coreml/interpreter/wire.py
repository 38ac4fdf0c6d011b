"""The protobuf wire format, as much of it as reading needs (https://protobuf.dev/programming-guides/encoding)."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from edgeq.errors import IntegrityError
from edgeq.types import Array

Message: TypeAlias = dict[int, list["int | memoryview"]]
"""Field number -> its occurrences: numbers for varints, bytes for everything else."""

_FIXED_BYTES = {1: 8, 5: 4}


def parse(data: memoryview) -> Message:
    """Split a message into its fields.

    Raises:
        IntegrityError: the bytes are no protobuf message.
    """
    fields: Message = {}
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        value: int | memoryview
        if kind == 0:
            value, position = _varint(data, position)
        else:
            size = _FIXED_BYTES.get(kind)
            if kind == 2:
                size, position = _varint(data, position)
            if size is None or position + size > len(data):
                raise IntegrityError(f"no protobuf message: field {number} of kind {kind} at byte {position}")
            value, position = data[position : position + size], position + size
        fields.setdefault(number, []).append(value)
    return fields


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    result = shift = 0
    while position < len(data) and shift < 70:
        byte = data[position]
        result |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return result, position
    raise IntegrityError(f"no protobuf message: it ends inside a number at byte {position}")


def message(fields: Message, number: int) -> Message | None:
    """A single embedded message, or None."""
    values = fields.get(number)
    return None if not values else parse(raw(values[-1]))


def messages(fields: Message, number: int) -> list[Message]:
    """A repeated embedded message."""
    return [parse(raw(value)) for value in fields.get(number, [])]


def text(fields: Message, number: int) -> str:
    """A string field; empty when absent, as protobuf defines."""
    values = fields.get(number)
    return bytes(raw(values[-1])).decode("utf-8") if values else ""


def number(fields: Message, field: int) -> int:
    """An integer field; zero when absent, as protobuf defines."""
    values = fields.get(field)
    if not values:
        return 0
    value = values[-1]
    if not isinstance(value, int):
        raise IntegrityError(f"no protobuf message: field {field} is not a number")
    return signed(value)


def entries(fields: Message, number: int) -> dict[str, Message]:
    """A map from string to message."""
    return {text(entry, 1): message(entry, 2) or {} for entry in messages(fields, number)}


def numbers(fields: Message, field: int) -> list[int]:
    """A repeated integer, packed or not."""
    result: list[int] = []
    for value in fields.get(field, []):
        if isinstance(value, int):
            result.append(signed(value))
            continue
        position = 0
        while position < len(value):
            item, position = _varint(value, position)
            result.append(signed(item))
    return result


def fixed(fields: Message, field: int, dtype: str) -> Array:
    """A repeated float or double, packed or not."""
    return np.frombuffer(b"".join(bytes(raw(value)) for value in fields.get(field, [])), np.dtype(dtype))


def raw(value: int | memoryview) -> memoryview:
    """A field that must be bytes."""
    if isinstance(value, int):
        raise IntegrityError("no protobuf message: a number stands where bytes were expected")
    return value


def signed(value: int) -> int:
    """A varint as the two's complement number it stands for."""
    return value - 2**64 if value >= 2**63 else value
