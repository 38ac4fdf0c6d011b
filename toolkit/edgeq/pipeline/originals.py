"""A model loaded to be measured: its graph, the original on the same feeds, and what makes feeds of texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from edgeq.comparison import Run
from edgeq.exporters import load_model
from edgeq.exporters.causal_lm import load_language_model
from edgeq.pipeline.forward.data import EVALUATION_BATCH, DataSets, divide
from edgeq.pipeline.generation.data import (
    divide_language,
    measured_feeds,
    text_windows,
    texts_of,
    window_batches,
)
from edgeq.processors.text_padding import TEXT_PADDING
from edgeq.quantize.batches import Batches, FeedBatches, batches_of
from edgeq.samples import Sample
from edgeq.tasks import Head, Mode, mode_of
from edgeq.types import Feeds, Task

if TYPE_CHECKING:
    from edgeq.calibration import CalibrationData
    from edgeq.exporters.causal_lm import ExportedLanguageModel
    from edgeq.exporters.exported_model import Exported
    from edgeq.graph.component import Component, Padding
    from edgeq.processors.text import TextPreprocessor
    from edgeq.tasks import TaskEntry


class Feeder(Protocol):
    """Makes feeds of samples, as one mode of running a model wants them."""

    @property
    def padding(self) -> Padding | None:
        """Says which positions of the feeds are real."""

    def divide(self, data: CalibrationData, calibration_samples: int) -> DataSets:
        """The parts that an export has."""

    def calibration(self, samples: Sequence[Sample]) -> Batches | FeedBatches:
        """Batches to calibrate on."""

    def judged(self, samples: Sequence[Sample]) -> tuple[Feeds, ...]:
        """Batches to compare outputs on."""


@dataclass(frozen=True, slots=True, eq=False)
class Original:
    """A model of any kind, and what makes feeds of its texts."""

    exported: Exported
    feeder: Feeder

    @property
    def canonical(self) -> Component:
        """Its graph."""
        return self.exported.canonical

    @property
    def head(self) -> Head:
        """How its outputs are read."""
        return self.exported.head

    @property
    def preprocessor(self) -> TextPreprocessor:
        """Makes feeds."""
        return self.exported.preprocessor

    @property
    def run(self) -> Run:
        """The original on the graph's own feeds."""
        return self.exported.run


def take_in(model: str, task: Task | None) -> Original:
    """Load a model, as its task's models are run.

    Args:
        model: folder or Hub id.
        task: of it.

    Raises:
        EdgeqError: it cannot be exported.
    """
    return TAKERS[mode_of(task)](model, task)


def _take_in_decoder(model: str, _task: Task | None) -> Original:
    decoder = load_language_model(model)
    return Original(decoder, Windows(decoder))


def _take_in_encoder(model: str, task: Task | None) -> Original:
    encoder = load_model(model, task=task)
    texts = Texts(encoder.preprocessor, encoder.head.entry, encoder.canonical.max_length)
    return Original(encoder, texts)


TAKERS: Mapping[Mode, Callable[[str, Task | None], Original]] = {
    Mode.FORWARD: _take_in_encoder,
    Mode.AUTOREGRESSIVE: _take_in_decoder,
}


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """Each text for itself, padded to the longest of its batch.

    Attributes:
        preprocessor: the model's.
        entry: of its kind, which reads samples of some form.
        max_length: tokens that it takes.
    """

    preprocessor: TextPreprocessor
    entry: TaskEntry
    max_length: int

    @property
    def padding(self) -> Padding | None:
        """The mask of the shorter texts of a batch."""
        return self.preprocessor.padding

    def divide(self, data: CalibrationData, calibration_samples: int) -> DataSets:
        """Held-out, search, calibration and golden parts."""
        return divide(
            data,
            self.preprocessor,
            calibration_samples=calibration_samples,
            entry=self.entry,
            max_length=self.max_length,
        )

    def calibration(self, samples: Sequence[Sample]) -> Batches:
        """Many texts at a time."""
        return batches_of(samples, self.preprocessor)

    def judged(self, samples: Sequence[Sample]) -> tuple[Feeds, ...]:
        """Fewer at a time."""
        batches = batches_of(samples, self.preprocessor, EVALUATION_BATCH)
        return tuple(feeds for feeds, _ in batches)


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Texts joined and cut into windows of tokens, each with an empty cache."""

    exported: ExportedLanguageModel

    @property
    def padding(self) -> Padding:
        """Windows are full, and have the mask of a text all the same."""
        return TEXT_PADDING

    def divide(self, data: CalibrationData, calibration_samples: int) -> DataSets:
        """Calibration windows, and held-out ones to measure layers on."""
        return divide_language(data, self.exported, calibration_samples).sets

    def calibration(self, samples: Sequence[Sample]) -> FeedBatches:
        """Full windows."""
        return window_batches(texts_of(samples), self.exported)

    def judged(self, samples: Sequence[Sample]) -> tuple[Feeds, ...]:
        """One window at a time."""
        return measured_feeds(text_windows(texts_of(samples), self.exported), self.exported.settings.cache)
