"""Which samples calibrate, which choose between settings, and which judge: three sets that do not overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from edgeq.calibration import BUILT_IN, load_samples
from edgeq.pipeline.forward.golden_samples import GoldenSample, golden_feeds, golden_samples
from edgeq.pipeline.ready_feeds import ready_feeds, require_names
from edgeq.quantize.batches import Batches, FeedBatches, batches_of
from edgeq.samples import Sample, Text
from edgeq.tasks.question_answering import paired
from edgeq.types import Array, Feeds

if TYPE_CHECKING:
    from edgeq.calibration import CalibrationData
    from edgeq.graph.component import Padding
    from edgeq.processors.text import TextPreprocessor
    from edgeq.tasks import TaskEntry

SEARCH_SAMPLES = 64
HELD_OUT_SAMPLES = 128
EVALUATION_BATCH = 16

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class DataSets:
    """Disjoint parts of the user's data, ready to run.

    Attributes:
        calibration: activation ranges come from these batches.
        calibration_samples: how many samples they hold.
        search: choices between settings are made on these.
        held_out: metrics and gates come from these, which nothing was fitted to.
        golden: what golden vectors are made of; they travel in the bundle.
        texts: the calibration texts, for the coverage report; empty for ready tensors.
        general: texts of other kinds than the user's, on which static int8 is judged as well while it chooses between
            settings: what fits one kind of text best loses on others. Empty where the user's are the built-in ones.
        padding: says which positions of the feeds are real; None where none are filled up.
    """

    calibration: Batches | FeedBatches
    calibration_samples: int
    search: tuple[Feeds, ...]
    held_out: tuple[Feeds, ...]
    golden: tuple[GoldenSample, ...]
    texts: tuple[Sample, ...] = ()
    general: tuple[Feeds, ...] = ()
    padding: Padding | None = field(kw_only=True)

    @property
    def held_out_samples(self) -> int:
        """How many samples judge."""
        return sum(_length(feeds) for feeds in self.held_out)


def wanted_samples(calibration_samples: int) -> int:
    """How many samples to load for all three parts."""
    return calibration_samples + SEARCH_SAMPLES + HELD_OUT_SAMPLES


def divide(
    data: CalibrationData,
    preprocessor: TextPreprocessor,
    *,
    calibration_samples: int,
    entry: TaskEntry,
    max_length: int,
) -> DataSets:
    """Tokenize and divide.

    Args:
        data: at least 8 samples, in the order the seed gave.
        preprocessor: the model's.
        calibration_samples: most samples to calibrate with.
        entry: of the model's kind, which reads samples of some form.
        max_length: tokens the shortest variant takes; judging and golden samples are cut to it.
    """
    judge = preprocessor.fit(min(max_length, preprocessor.max_length))
    if data.feeds is not None:
        return _divide_feeds(data.feeds, preprocessor, calibration_samples, judge.max_length)
    samples = entry.arrange(data.samples, preprocessor)
    held_out, search, rest = _parts(samples, calibration_samples)
    return DataSets(
        calibration=batches_of(rest, preprocessor),
        calibration_samples=len(rest),
        search=tuple(feeds for feeds, _ in batches_of(search, judge, EVALUATION_BATCH)),
        held_out=tuple(feeds for feeds, _ in batches_of(held_out, judge, EVALUATION_BATCH)),
        golden=golden_samples(held_out, preprocessor, (judge.max_length, preprocessor.max_length)),
        texts=rest,
        general=_general(data.source, samples, judge),
        padding=preprocessor.padding,
    )


def _general(source: str, samples: Sequence[Sample], judge: TextPreprocessor) -> tuple[Feeds, ...]:
    """Batches of built-in texts in the form of the user's; none where those are the user's."""
    if source == BUILT_IN:
        return ()
    general = load_samples(None, count=SEARCH_SAMPLES).samples
    if not all(isinstance(sample, Text) for sample in samples):
        general = paired([text for sample in general for text in sample.texts])
    return tuple(feeds for feeds, _ in batches_of(general, judge, EVALUATION_BATCH))


def _parts(
    samples: Sequence[Item], calibration_samples: int
) -> tuple[tuple[Item, ...], tuple[Item, ...], tuple[Item, ...]]:
    """Held-out first, so that it stays the same when more samples calibrate; a quarter is always spared."""
    held_out, search, rest = part_sizes(len(samples), calibration_samples)
    start = held_out + search
    return tuple(samples[:held_out]), tuple(samples[held_out:start]), tuple(samples[start : start + rest])


def part_sizes(count: int, calibration_samples: int) -> tuple[int, int, int]:
    """How many of some samples are held out, choose between settings, and calibrate."""
    spare = max(count - calibration_samples, count // 4)
    held_out = min(HELD_OUT_SAMPLES, max(2, (2 * spare) // 3))
    search = min(SEARCH_SAMPLES, max(2, spare - held_out))
    return held_out, search, min(count - held_out - search, calibration_samples)


def _divide_feeds(
    feeds: Feeds, preprocessor: TextPreprocessor, calibration_samples: int, max_length: int
) -> DataSets:
    require_names(feeds, preprocessor.input_names)
    whole = ready_feeds(feeds, max_length, preprocessor.vocabulary_size)
    indices = range(_length(whole))
    held_out, search, rest = (_rows(whole, list(part)) for part in _parts(indices, calibration_samples))
    return DataSets(
        calibration=FeedBatches(rest),
        calibration_samples=_length(rest),
        search=tuple(feeds for feeds, _ in FeedBatches(search, EVALUATION_BATCH)),
        held_out=tuple(feeds for feeds, _ in FeedBatches(held_out, EVALUATION_BATCH)),
        golden=golden_feeds(held_out),
        padding=preprocessor.padding,
    )


def _rows(feeds: Feeds, indices: list[int]) -> dict[str, Array]:
    return {name: array[indices] for name, array in feeds.items()}


def _length(feeds: Feeds) -> int:
    return len(next(iter(feeds.values())))
