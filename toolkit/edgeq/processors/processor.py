"""What a processor offers, whatever it processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self, TypeVar

from edgeq.bundle.manifest import PreprocessStep
from edgeq.graph.component import Padding
from edgeq.types import Array

Item = TypeVar("Item", contravariant=True)
"""The kind of sample that a processor takes."""


class Processor(Protocol[Item]):
    """Turns raw samples into model inputs; needs no torch, and travels in the bundle."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """The inputs that calling this gives."""

    @property
    def padding(self) -> Padding | None:
        """How samples of other sizes share a batch; None where all have one size."""

    @property
    def steps(self) -> tuple[PreprocessStep, ...]:
        """What it does, for readers in other languages."""

    @property
    def max_length(self) -> int:
        """The largest size of a sample, in what `costs` counts; larger ones are cut."""

    def __call__(self, samples: Sequence[Item], *, pad_to: int | None = None) -> dict[str, Array]:
        """Feeds for a batch, padded to the largest sample or to `pad_to`."""

    def costs(self, samples: Sequence[Item]) -> list[int]:
        """The size of each sample (tokens, frames, patches) before it is cut: what running it costs."""

    def fit(self, max_length: int) -> Self:
        """The same processor with another largest size."""

    def save(self, folder: Path, *, limits: bool = False) -> None:
        """Write it into a bundle.

        Args:
            folder: is made where it is missing.
            limits: say in files of other formats, too, where samples are cut.
        """
