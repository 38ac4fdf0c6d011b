"""The kinds of samples, and plain values as samples of one of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from edgeq.errors import DataError
from edgeq.samples.sample import Sample
from edgeq.samples.text import Text, TextPair

KINDS: tuple[type[Sample], ...] = (Text, TextPair)
"""Tried in this order on a plain value."""
SampleLike: TypeAlias = Sample | str | tuple[str, str]
"""What programs may give for a sample."""


def kinds_in_words(kinds: Iterable[type[Sample]]) -> str:
    """What samples of some kinds are, for messages."""
    return " or ".join(kind.kind for kind in kinds)


def as_sample(value: object) -> Sample | None:
    """A sample as it is, or what a program or JSON holds as one; None where it is neither."""
    if isinstance(value, KINDS):
        return value
    return next((found for kind in KINDS if (found := kind.of(value)) is not None), None)


def as_samples(values: Iterable[object]) -> list[Sample]:
    """What a program gives as samples: the one place where plain values become typed.

    Raises:
        DataError: one is no sample, or a text was given in place of a list.
    """
    if isinstance(values, str):
        raise DataError(f"samples must be a list of texts, got one text: {values[:40]!r}")
    found = []
    for index, value in enumerate(values):
        sample = as_sample(value)
        if sample is None:
            raise DataError(f"sample {index} must be {kinds_in_words(KINDS)}, got {value!r:.80}")
        found.append(sample)
    return found
