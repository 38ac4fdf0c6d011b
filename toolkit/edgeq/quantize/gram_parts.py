"""Layers in parts whose statistics fit in memory together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

GRAM_BYTES = 512 << 20
"""Gram matrices X^T X held at a time; more layers than fit are calibrated in several passes."""

T = TypeVar("T")


def in_parts(layers: Iterable[T], gram_bytes: Callable[[T], int]) -> Iterator[list[T]]:
    """Layers in order, in parts whose Gram matrices take at most `GRAM_BYTES`; one that takes more is alone.

    Args:
        layers: to calibrate.
        gram_bytes: of a layer's Gram matrices; 0 for a layer that needs none.
    """
    part: list[T] = []
    held = 0
    for layer in layers:
        added = gram_bytes(layer)
        if part and held + added > GRAM_BYTES:
            yield part
            part, held = [], 0
        part.append(layer)
        held += added
    if part:
        yield part
