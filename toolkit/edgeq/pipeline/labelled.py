"""The task's own metric on labelled data, of a variant and of the original, with what chance leaves open."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from edgeq.bundle.manifest import Gate
from edgeq.errors import ModelError, UnsupportedError, UsageError
from edgeq.pipeline.forward.data import EVALUATION_BATCH
from edgeq.quantize.batches import batches_of
from edgeq.quantize.bootstrap import Estimate, bootstrap
from edgeq.tasks.labelled import Question, ignore
from edgeq.types import Array, Feeds, Outputs, Sample

if TYPE_CHECKING:
    from edgeq.tasks import Head
    from edgeq.tasks.entry import TaskEntry
    from edgeq.tasks.labelled import LabelledMetric, Notify
    from edgeq.types import Preprocessor

MATERIAL = 1.0
"""Points of a hundred; a smaller loss is not held against a variant, however certain it is."""

EXCLUDED = 5.0
"""Points of a hundred; where so large a loss cannot be excluded, labelled texts say nothing in a variant's favour."""
UNSEEN = 3.0
"""What no one of n samples shows may still befall 3 in n of all texts (95 %, rule of three)."""


class Verdict(StrEnum):
    """What labelled texts say of a variant beside its original."""

    PASSED = "passed"
    FAILED = "failed"
    UNDECIDED = "undecided"


Runs: TypeAlias = Callable[[Iterable[Feeds]], Iterable[Outputs]]
"""Runs batches and gives their outputs in order."""


@dataclass(frozen=True, slots=True)
class LabelledResult:
    """The metric of one variant.

    Attributes:
        name: of the metric.
        value: with its bounds.
        original: the original's; None where there is none to compare with.
        drop: points of a hundred that the variant loses, sample by sample; None without an original.
    """

    name: str
    value: Estimate
    original: Estimate | None = None
    drop: Estimate | None = None

    def metrics(self) -> dict[str, float]:
        """By name, as `validate` prints them."""
        found = {
            self.name: self.value.value,
            f"{self.name}_low": self.value.low,
            f"{self.name}_high": self.value.high,
        }
        if self.original is not None and self.drop is not None:
            found |= {
                f"{self.name}_original": self.original.value,
                f"{self.name}_drop": self.drop.value,
                f"{self.name}_drop_low": self.drop.low,
                f"{self.name}_drop_high": self.drop.high,
            }
        return found

    @property
    def possible(self) -> float | None:
        """Points that may be lost: the upper 95 % bound, and at least what so few samples cannot show."""
        return None if self.drop is None else max(self.drop.high, 100 * UNSEEN / self.drop.n)

    @property
    def verdict(self) -> Verdict | None:
        """Failed where the loss is both certain and material, undecided where a large one is possible."""
        if self.drop is None or self.possible is None:
            return None
        # Asked so that a NaN is worse.
        if not (self.drop.low <= 0 or self.drop.value <= MATERIAL):
            return Verdict.FAILED
        return Verdict.PASSED if self.possible <= EXCLUDED else Verdict.UNDECIDED

    @property
    def decides(self) -> bool:
        """Whether they say something, for or against the variant."""
        return self.verdict in (Verdict.PASSED, Verdict.FAILED)

    @property
    def undecided(self) -> str | None:
        """Why they say nothing, for people; None where they decide or there is nothing to decide."""
        if self.verdict is not Verdict.UNDECIDED or self.drop is None:
            return None
        return (
            f"{self.drop.n} labelled texts do not decide: {self.name} may have lost {self.possible:.1f} points (95 %), "
            f"and {EXCLUDED:g} have to be excluded"
        )

    def to_json(self) -> dict[str, Any]:
        """As `validate --json` prints it."""
        found = {
            "metric": self.name,
            "n": self.value.n,
            "verdict": self.verdict,
            "possible_drop": self.possible,
        }
        return found | self.metrics()

    def gate(self, variant: str, output: str) -> Gate | None:
        """The verdict as a gate; None where there is none."""
        if self.drop is None or not self.decides:
            return None
        drop = self.drop
        rule = (
            f"{drop.n} labelled samples, paired bootstrap: fails where the drop is above {MATERIAL:g} point and its "
            f"95 % lower bound ({drop.low:.2f}) above 0"
        )
        return Gate(
            variant,
            output,
            f"{self.name}_drop",
            "<=",
            MATERIAL,
            rule,
            drop.value,
            self.verdict is Verdict.PASSED,
        )


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
        self, runs: Runs, preprocessor: Preprocessor, advance: Callable[[int], None] = lambda _: None
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
