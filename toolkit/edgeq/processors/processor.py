"""What a processor offers, whatever it processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

from edgeq.bundle.manifest import PreprocessStep
from edgeq.errors import DataError
from edgeq.graph.component import Padding
from edgeq.samples import Sample, kinds_in_words
from edgeq.types import Array


class Processor(Protocol):
    """Turns samples into model inputs; needs no torch, and travels in the bundle."""

    @property
    def takes(self) -> tuple[type[Sample], ...]:
        """The kinds of samples that it takes; it refuses others, as `require_kinds` does."""

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

    def __call__(self, samples: Sequence[Sample], *, pad_to: int | None = None) -> dict[str, Array]:
        """Feeds for a batch, padded to the largest sample or to `pad_to`."""

    def costs(self, samples: Sequence[Sample]) -> list[int]:
        """The size of each sample (tokens, frames, patches) before it is cut: what running it costs."""

    def fit(self, max_length: int) -> Self:
        """The same processor with another largest size."""

    def save(self, folder: Path, *, limits: bool = False) -> None:
        """Write it into a bundle.

        Args:
            folder: is made where it is missing.
            limits: say in files of other formats, too, where samples are cut.
        """


def require_kinds(samples: Sequence[Sample], takes: tuple[type[Sample], ...]) -> None:
    """Refuse samples of other kinds than a processor takes, plain values among them.

    Raises:
        DataError: there is one; says which.
    """
    for index, sample in enumerate(samples):
        if not isinstance(sample, takes):
            got = getattr(sample, "kind", type(sample).__name__)
            raise DataError(
                f"sample {index} must be {kinds_in_words(takes)}, got {got}",
                hint="edgeq.samples.as_samples makes samples of plain values",
            )
