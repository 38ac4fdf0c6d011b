"""Samples as the plain values that tests spell out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgeq.samples import Sample


def plain(samples: Iterable[Sample]) -> list[Any]:
    """Texts, and tuples of two."""
    return [sample.to_json() for sample in samples]
