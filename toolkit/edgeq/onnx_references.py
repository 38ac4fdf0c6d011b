"""What an ONNX file refers to outside itself: files of weights, and operators of other domains.

Read from the bytes of the file, whose format is protobuf (onnx.proto3), so that a reader of bundles needs no `onnx`,
and edgeq does not depend on what the installed ONNX Runtime checks.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from edgeq.errors import EdgeqError, IntegrityError, ModelError
from edgeq.files import check_path

DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview", "com.microsoft", "com.microsoft.nchwc")
"""Of operators that ONNX Runtime has in itself; those of others come from libraries that are loaded beside it."""
MOST_MESSAGES = 1 << 21
"""Nodes, attributes and tensors of a file; the largest models have some hundred thousand."""
DEEPEST = 64
_SHOWN = 60

_INSIDE: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 10: "defined", 11: "attribute"},
    "node": {5: "attribute", 7: "domain"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
}
"""Messages by the numbers of the fields that hold them, as far as a reference may be in them."""
_TEXTS = ("domain", "defined")
_KEY, _VALUE = 1, 2
_VARINT, _BITS_64, _BYTES, _BITS_32 = 0, 1, 2, 5

Span: TypeAlias = tuple[int, int]


@dataclass(slots=True)
class References:
    """Of one file.

    Attributes:
        external: `location`, `offset`, `length` of each tensor that is in another file.
        domains: of the operators.
        defined: domains of the functions that the file defines itself.
    """

    external: list[Mapping[str, str]] = field(default_factory=list)
    domains: set[str] = field(default_factory=set)
    defined: set[str] = field(default_factory=set)


def check_references(path: Path, error: type[EdgeqError] = ModelError, *, any_domain: bool = False) -> None:
    """Refuse a model that reads files outside its folder, beyond their ends, or needs operators nobody here has.

    Args:
        path: a `.onnx` file.
        error: what is raised: IntegrityError for the model of a bundle.
        any_domain: the model is looked at and not run, so its operators may come from anywhere.

    Raises:
        EdgeqError: of the type `error`; also where the file is no ONNX model.
    """
    try:
        found = read_references(path)
        if not any_domain:
            _check_domains(found)
        for entry in found.external:
            _check_external(path, entry)
    except (ValueError, IntegrityError) as reason:
        raise error(
            f"`{path}` is refused: {reason}",
            hint="weights in files of their own must lie beside the model: copy them there, or export it again",
        ) from reason


def read_references(path: Path) -> References:
    """What a file refers to.

    Raises:
        ValueError: it is no ONNX model.
    """
    found = References()
    with path.open("rb") as file:
        if not file.seek(0, 2):
            raise ValueError("it is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _walk(data, found)
    return found


def _walk(data: mmap.mmap, found: References) -> None:
    pending: list[tuple[str, Span, int]] = [("model", (0, len(data)), 0)]
    budget = MOST_MESSAGES
    while pending:
        kind, span, depth = pending.pop()
        inside = _INSIDE[kind]
        external: dict[str, str] = {}
        for number, part in _fields(data, span):
            name = inside.get(number)
            if name in _TEXTS:
                (found.domains if name == "domain" else found.defined).add(_text(data, part))
            elif name == "external":
                external |= _entry(data, part)
            elif name is not None:
                pending.append((name, part, depth + 1))
                budget -= 1
        if external:
            found.external.append(external)
        if budget < 0 or depth > DEEPEST:
            raise ValueError("it holds more than any model does, or is nested too deeply")


def _fields(data: mmap.mmap, span: Span) -> Iterator[tuple[int, Span]]:
    """Number and place of every field that may be a message or a text."""
    at, end = span
    while at < end:
        key, at = _varint(data, at, end)
        wire = key & 7
        if wire == _BYTES:
            size, at = _varint(data, at, end)
            if size > end - at:
                raise ValueError("it is truncated, or no ONNX model")
            yield key >> 3, (at, at + size)
            at += size
        elif wire == _VARINT:
            _, at = _varint(data, at, end)
        elif wire in (_BITS_32, _BITS_64):
            at += 4 if wire == _BITS_32 else 8
        else:
            raise ValueError("it is no ONNX model")
    if at != end:
        raise ValueError("it is truncated, or no ONNX model")


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("it is truncated, or no ONNX model")


def _entry(data: mmap.mmap, span: Span) -> dict[str, str]:
    parts = {number: _text(data, part) for number, part in _fields(data, span)}
    return {parts.get(_KEY, ""): parts.get(_VALUE, "")}


def _text(data: mmap.mmap, span: Span) -> str:
    return data[span[0] : min(span[1], span[0] + 4096)].decode("utf-8", "backslashreplace")


def _check_domains(found: References) -> None:
    foreign = sorted(found.domains - found.defined - set(DOMAINS))
    if foreign:
        raise ValueError(
            f"it has operators of `{foreign[0]:.{_SHOWN}}`, which come from a library that edgeq never loads; expected "
            f"those of {', '.join(filter(None, DOMAINS))}"
        )


def _check_external(path: Path, entry: Mapping[str, str]) -> None:
    location = entry.get("location", "")
    check_path(location.removeprefix("./"))
    place = path.parent / location
    # Caches of the Hub keep both as links to one folder of contents.
    homes = {path.parent.resolve(), path.resolve().parent}
    if place.resolve().parent not in homes and path.parent.resolve() not in place.resolve().parents:
        raise ValueError(f"its weights in `{location:.{_SHOWN}}` lie outside its folder")
    if not place.is_file():
        raise ValueError(f"its weights in `{location:.{_SHOWN}}` are missing")
    offset, length = (_number(entry, key) for key in ("offset", "length"))
    if offset + length > place.stat().st_size:
        raise ValueError(
            f"its weights in `{location:.{_SHOWN}}` end at byte {offset + length} of {place.stat().st_size}"
        )


def _number(entry: Mapping[str, str], key: str) -> int:
    text = entry.get(key, "0")
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError(f"its weights have the {key} `{text:.{_SHOWN}}`, expected a number of bytes")
    return int(text)
