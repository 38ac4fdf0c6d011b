"""The task's own metric on labelled data: rank correlation for embeddings, accuracy for classifiers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from edgeq.errors import DataError, UnsupportedError
from edgeq.metrics import cosines, spearman
from edgeq.pipeline.data import EVALUATION_BATCH
from edgeq.pipeline.judges import read_pairs
from edgeq.quantize.batches import batches_of
from edgeq.types import Array, Feeds, Outputs, Sample, SourceInfo, Task

if TYPE_CHECKING:
    from edgeq.types import Preprocessor

MIN_LABELLED = 20

Runs: TypeAlias = Callable[[Iterable[Feeds]], Iterable[Outputs]]
"""Runs batches and gives their outputs in order."""


@dataclass(frozen=True, slots=True)
class TaskMetric:
    """Labelled samples and what they are scored by.

    Attributes:
        name: `spearman` (points, x 100) or `accuracy` (a share).
        output: the model output it is computed from.
        samples: texts; for `spearman` all first texts, then all second ones.
        gold: scores, or label indices.
    """

    name: str
    output: str
    samples: tuple[Sample, ...]
    gold: tuple[float, ...]

    def measure(
        self, runs: Runs, preprocessor: Preprocessor, advance: Callable[[int], None] = lambda _: None
    ) -> float:
        """The metric of a model on all samples.

        Args:
            runs: the model, batches to outputs in their order.
            preprocessor: its tokenizer.
            advance: told how many samples are done.
        """
        batches = batches_of(self.samples, preprocessor, EVALUATION_BATCH)
        parts = []
        for outputs in runs(feeds for feeds, _ in batches):
            parts.append(outputs[self.output])
            advance(len(parts[-1]))
        found = np.concatenate(parts)
        rows = np.empty_like(found)
        rows[batches.order] = found
        return self._score(rows)

    def _score(self, rows: Array) -> float:
        gold = np.asarray(self.gold)
        if self.name == "accuracy":
            return float(np.mean(rows.argmax(axis=1) == gold))
        return 100 * spearman(cosines(rows[: len(gold)], rows[len(gold) :]), gold)


def read_labelled(path: Path, source: SourceInfo, output: str) -> TaskMetric:
    """Read labelled data for a model's task.

    Args:
        path: tab-separated lines: score, text, text for embeddings; label, text (and a second text) for classifiers.
        source: its task and labels.
        output: name of the model's output.

    Raises:
        DataError: a line does not have that form, a label is unknown, or there are too few lines.
        UnsupportedError: the task has no metric here.
    """
    match source.task:
        case Task.SENTENCE_EMBEDDING:
            pairs = read_pairs(path)
            texts = [first for first, _ in pairs.pairs] + [second for _, second in pairs.pairs]
            return TaskMetric("spearman", output, tuple(texts), pairs.scores)
        case Task.SEQUENCE_CLASSIFICATION:
            return _read_classes(path, source.labels, output)
        case task:
            raise UnsupportedError(
                f"labelled data are read for embeddings and classifiers; this model does {task}"
            )


def _read_classes(path: Path, labels: Sequence[str], output: str) -> TaskMetric:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"`{path}` cannot be read as text: {error}") from error
    samples: list[Sample] = []
    gold: list[float] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        label, *texts = line.split("\t")
        if label not in labels or not 1 <= len(texts) <= 2:
            raise DataError(
                f"line {number} of `{path}` is {line[:60]!r}; expected a label and one or two texts, by tabs",
                hint=f"labels: {', '.join(labels)}",
            )
        samples.append(texts[0] if len(texts) == 1 else (texts[0], texts[1]))
        gold.append(float(labels.index(label)))
    if len(samples) < MIN_LABELLED:
        raise DataError(f"`{path}` has {len(samples)} labelled texts; at least {MIN_LABELLED} are needed")
    return TaskMetric("accuracy", output, tuple(samples), tuple(gold))
