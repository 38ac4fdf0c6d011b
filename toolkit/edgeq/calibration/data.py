"""Calibration data and its division into calibration and held-out parts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeq.calibration.sampling import rank
from edgeq.errors import DataError
from edgeq.samples import Sample
from edgeq.types import Feeds

MIN_SAMPLES = 8
"""Fewer say nothing about the range of activations, and leave nothing to hold out."""
FEW_SAMPLES = 64
"""Below this a notice says that ranges may be too narrow."""


@dataclass(frozen=True, slots=True)
class CalibrationData:
    """Samples to calibrate or evaluate with: texts and pairs in `samples`, or ready tensors in `feeds`.

    Attributes:
        samples: the texts, in an order that follows from the seed; empty when there are feeds.
        source: where they come from, for people.
        sha256: of the samples or feeds held here, in their order.
        total: samples that were found, before duplicates were removed and `count` were drawn.
        feeds: model inputs, first axis the samples, when the source is an .npz file.
        duplicates: samples found that equal an earlier one (a lower bound beyond 200,000 distinct samples).
        blank: empty lines or cells that were skipped.
        columns: the columns that were read.
        notices: what a user should know about how the data was read.
    """

    samples: tuple[Sample, ...]
    source: str
    sha256: str
    total: int
    feeds: Feeds | None = None
    duplicates: int = 0
    blank: int = 0
    columns: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.samples) if self.feeds is None else feeds_length(self.feeds)


def split(data: CalibrationData, held_out: float, seed: int = 0) -> tuple[CalibrationData, CalibrationData]:
    """Divide into a calibration part and a held-out part, by content and seed: the order plays no role.

    Args:
        data: at least two samples.
        held_out: share of the samples in the second part, in (0, 1); both parts get at least one.
        seed: of the draw.

    Raises:
        ValueError: `held_out` is not in (0, 1).
        DataError: there are fewer than two samples.
    """
    if not 0.0 < held_out < 1.0:
        raise ValueError(f"held_out must be in (0, 1), got {held_out}")
    if len(data) < 2:
        raise DataError(f"{len(data)} calibration sample cannot be divided, expected at least 2")
    # Another key than the draw's: its smallest ranks are what was drawn.
    ranks = [rank(content, f"split {seed}") for content in _contents(data)]
    order = sorted(range(len(ranks)), key=ranks.__getitem__)
    size = min(max(round(len(data) * held_out), 1), len(data) - 1)
    held, kept = sorted(order[:size]), sorted(order[size:])
    return _take(data, kept), _take(data, held)


def digest_of(contents: Sequence[bytes]) -> str:
    """SHA-256 of a sequence of samples' contents."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def feeds_length(feeds: Feeds) -> int:
    """Number of samples in feeds."""
    return len(next(iter(feeds.values())))


def feeds_contents(feeds: Feeds) -> list[bytes]:
    """The content of every sample of feeds: names, types, shapes and bytes."""
    names = sorted(feeds)
    kinds = "|".join(f"{name} {feeds[name].dtype.str} {feeds[name].shape[1:]}" for name in names).encode()
    arrays = [np.ascontiguousarray(feeds[name]) for name in names]
    return [b"|".join([kinds, *(array[i].tobytes() for array in arrays)]) for i in range(feeds_length(feeds))]


def _contents(data: CalibrationData) -> list[bytes]:
    return [sample.content() for sample in data.samples] if data.feeds is None else feeds_contents(data.feeds)


def _take(data: CalibrationData, indices: Sequence[int]) -> CalibrationData:
    if data.feeds is not None:
        part = replace(data, feeds={name: array[list(indices)] for name, array in data.feeds.items()})
    else:
        part = replace(data, samples=tuple(data.samples[index] for index in indices))
    return replace(part, sha256=digest_of(_contents(part)))
