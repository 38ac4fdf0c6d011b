"""Manifests of format 1: read as what format 2 says in other words, and written again as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from edgeq.types import COMPONENT

FIRST = "1"
"""The major version before this one. Its variants have one `model`, and its models take text or nothing."""

Document: TypeAlias = dict[str, Any]


def to_current(document: Document) -> Document:
    """A document of format 1 with the keys of format 2; its `format` stays, since it says what may be missing."""
    return _renamed(
        document,
        {"tokenizer": ("processor", lambda tokenizer: {"text": tokenizer})},
        {"model": ("models", lambda path: {COMPONENT: path})},
    )


def to_first(document: Document) -> Document:
    """What `to_current` was given."""
    return _renamed(
        document,
        {"processor": ("tokenizer", lambda processor: processor["text"])},
        {"models": ("model", lambda models: models[COMPONENT])},
    )


def foreign_keys(document: Document, major: str) -> Iterator[str]:
    """Keys that the other format has for what is there already: two answers to one question."""
    other = {"models": "model", "processor": "tokenizer"}
    if major != FIRST:
        other = {theirs: mine for mine, theirs in other.items()}
    for where, part in [(f"variants[{i}]", item) for i, item in enumerate(document["variants"])] + [
        ("the document", document)
    ]:
        for theirs, mine in other.items():
            if theirs in part:
                yield f"at {where}: got `{theirs}`, which format {major} calls `{mine}`"


_Rename: TypeAlias = Mapping[str, tuple[str, Callable[[Any], Any]]]


def _renamed(document: Document, top: _Rename, variant: _Rename) -> Document:
    found = _with_names(document, top)
    found["variants"] = [_with_names(item, variant) for item in document["variants"]]
    return found


def _with_names(part: Document, names: _Rename) -> Document:
    """Keys stay where they are."""
    found: Document = {}
    for key, value in part.items():
        name, change = names.get(key, (key, _same))
        found[name] = change(value)
    return found


def _same(value: Any) -> Any:
    return value
