"""The task's own metric on labelled data, of a variant and of the original, with what chance leaves open."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from edgeq.errors import ModelError, UnsupportedError, UsageError
from edgeq.pipeline.forward.data import EVALUATION_BATCH
from edgeq.pipeline.labelled_result import LabelledResult
from edgeq.quantize.batches import batches_of
from edgeq.quantize.bootstrap import Estimate, bootstrap
from edgeq.samples import Sample
from edgeq.tasks.labelled import Question, ignore
from edgeq.types import Array, Feeds, Outputs

if TYPE_CHECKING:
    from edgeq.processors.processor import Processor
    from edgeq.tasks import Head
    from edgeq.tasks.entry import TaskEntry
    from edgeq.tasks.labelled import LabelledMetric, Notify

Runs: TypeAlias = Callable[[Iterable[Feeds]], Iterable[Outputs]]
"""Runs batches and gives their outputs in order."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Labelled samples and what they are scored by.

    Attributes:
        metric: reads and scores.
        output: the model output it is computed from.
        samples: texts, in the order that the metric wants.
        gold: what is right.
    """

    metric: LabelledMetric
    output: str
    samples: tuple[Sample, ...]
    gold: Array

    def predictions(
        self, runs: Runs, preprocessor: Processor, advance: Callable[[int], None] = lambda _: None
    ) -> Array:
        """What a model answers, one prediction per gold value.

        Args:
            runs: the model, batches to outputs in their order.
            preprocessor: its tokenizer.
            advance: told how many samples are done.

        Raises:
            ModelError: some outputs are NaN or infinite; the largest of NaN logits would be the first label.
        """
        batches = batches_of(self.samples, preprocessor, EVALUATION_BATCH)
        parts = []
        for outputs in runs(feeds for feeds, _ in batches):
            parts.append(outputs[self.output])
            advance(len(parts[-1]))
        found = np.concatenate(parts)
        self._require_finite(found)
        rows = np.empty_like(found)
        rows[batches.order] = found
        return self.metric.predict(rows)

    def answers(
        self, run_one: Callable[[Sample], Outputs], advance: Callable[[int], None] = lambda _: None
    ) -> Array:
        """What a model that reads text itself answers, one prediction per gold value.

        Args:
            run_one: one sample to outputs `[1, ...]` by name.
            advance: told how many samples are done.

        Raises:
            ModelError: some outputs are NaN or infinite.
        """
        rows = []
        for sample in self.samples:
            rows.append(run_one(sample)[self.output])
            advance(1)
        found = np.concatenate(rows)
        self._require_finite(found)
        return self.metric.predict(found)

    def _require_finite(self, rows: Array) -> None:
        bad = int(np.sum(~np.isfinite(rows).reshape(len(rows), -1).all(axis=1)))
        if bad:
            raise ModelError(
                f"`{self.output}` is NaN or infinite for {bad} of {len(rows)} labelled texts: that is no answer"
            )

    def result(self, predictions: Array, original: Array | None, seed: int) -> LabelledResult:
        """The metric, and where there is an original what is lost against it on the same samples."""
        return labelled_result(self.metric, self.gold, predictions, original, seed)


def labelled_result(
    metric: LabelledMetric, gold: Array, predictions: Array, original: Array | None, seed: int
) -> LabelledResult:
    """A model's answers scored, with what chance leaves open.

    Args:
        metric: scores.
        gold: what is right.
        predictions: one per gold value.
        original: the original's on the same samples; None where there is none.
        seed: of the bootstrap.
    """

    def estimate(answers: Array) -> Estimate:
        return bootstrap(lambda rows: metric.score(answers[rows], gold[rows]), len(gold), seed)

    if original is None:
        return LabelledResult(metric.name, estimate(predictions))

    def lost(rows: Array) -> float:
        before, after = (metric.score(answers[rows], gold[rows]) for answers in (original, predictions))
        return metric.to_points * (before - after)

    drop = bootstrap(lost, len(gold), seed)
    return LabelledResult(metric.name, estimate(predictions), estimate(original), drop)


def labelled_metric(entry: TaskEntry) -> LabelledMetric:
    """What a kind is scored by; asked before anything is read or run.

    Raises:
        UsageError: it has no such metric; says why.
    """
    if entry.labelled is None:
        raise UsageError(
            f"labelled data are not read for {entry.kind}: {entry.no_labels}",
            hint="edgeq validate BUNDLE --against ORIGINAL compares outputs on your texts (--data)",
        )
    return entry.labelled


def read_labelled(path: Path, head: Head, notify: Notify = ignore) -> Labelled:
    """Read labelled data for a model's kind.

    Args:
        path: lines by tabs; their form depends on the kind.
        head: the model's.
        notify: told that a line was taken as a header.

    Raises:
        DataError: a line does not have that form, a label is unknown, or there are too few lines.
        UsageError: the kind has no metric.
        UnsupportedError: the head gives no one row per text.
    """
    spec = head.outputs[0]
    metric, width = labelled_metric(head.entry), spec.shape[-1]
    if len(spec.shape) != 2 or not isinstance(width, int):
        raise UnsupportedError(
            f"labelled data judge one row per text; `{spec.name}` has the shape {list(spec.shape)}"
        )
    found, gold = metric.read(path, head.labels, width, notify)
    samples = tuple(sample for sample in found if not isinstance(sample, Question))
    return Labelled(metric, spec.name, samples, gold)
