"""How a tuned candidate is judged: one value per row against the original, and a statistic with its bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgeq.comparison import Run
from edgeq.errors import UsageError
from edgeq.metrics import Float64Array, OutputComparison, cosines, spearman
from edgeq.pipeline.tune.budget import PERPLEXITY_RATIO, SIZE, SPEARMAN_DROP, Budget
from edgeq.pipeline.tune.data import TuneData, divide_pairs
from edgeq.quantize.batches import Batches
from edgeq.quantize.bootstrap import Estimate, Indices, bootstrap
from edgeq.quantize.cache import feeds_digest
from edgeq.quantize.segmented.values import ValueStore
from edgeq.quantize.sensitivity import EXPECTED_BYTES
from edgeq.runtime.perplexity import negative_log_likelihood
from edgeq.samples import Text
from edgeq.tasks.labelled import LabelledPairs, Notify, ignore, read_pairs
from edgeq.tasks.tokens import Tokens
from edgeq.text_inputs import INPUT_IDS
from edgeq.types import Array, Feeds, Role

if TYPE_CHECKING:
    from edgeq.graph.component import Component
    from edgeq.pipeline.originals import Original
    from edgeq.processors.processor import Processor
    from edgeq.tasks import Head


class Judge(Protocol):
    """Turns a candidate into rows, and rows into a metric."""

    def rows(self, run: Run) -> Array:
        """One row per sample (or token): what the statistic needs of it."""

    def estimate(self, rows: Array, seed: int) -> Estimate:
        """The metric with its bounds."""

    def digest(self) -> str:
        """SHA-256 of the data rows come from."""


@dataclass(slots=True)
class FidelityJudge:
    """A per-row metric of the outputs against the original's.

    Args:
        metric: one of `budget.ROW_METRICS`.
        head: the outputs, of which rows are pooled, and how they are read.
        reference: the original.
        batches: feeds to compare on.
    """

    metric: str
    head: Head
    reference: Run
    batches: tuple[Feeds, ...]
    expected: ValueStore = field(default_factory=lambda: ValueStore(EXPECTED_BYTES))

    def rows(self, run: Run) -> Array:
        """`[rows]`; of a language model `[batches]`, whose tokens share their context and err together."""
        if not len(self.expected):
            for feeds in self.batches:
                self.expected.append(dict(self.reference(feeds)))
        comparisons, ends = self.head.compare_each(), []
        for feeds, expected in zip(self.batches, self.expected, strict=True):
            self.head.compare_batch(comparisons, expected, run(feeds), Tokens.of_feeds(feeds).mask)
            ends.append(len(comparisons[0].cosine))
        values = np.concatenate([self._values(comparison) for comparison in comparisons])
        return means_between(values, ends) if self.head.entry.is_autoregressive else values

    def estimate(self, rows: Array, seed: int) -> Estimate:
        """The mean, or the first percentile for `cosine_p01`."""
        if self.metric == "cosine_p01":
            return bootstrap(lambda picked: float(np.percentile(rows[picked], 1)), len(rows), seed)
        return bootstrap(lambda picked: float(rows[picked].mean()), len(rows), seed)

    def digest(self) -> str:
        """SHA-256 of the feeds."""
        return feeds_digest((feeds, 0) for feeds in self.batches)

    def _values(self, comparison: OutputComparison) -> Float64Array:
        match self.metric:
            case "kl_mean":
                return np.asarray(comparison.kl, np.float64)
            case "relative_error_mean":
                return comparison.relative_errors()
            case "top1_agreement":
                return np.asarray(comparison.agreed, np.float64)
            case _:
                return np.asarray(comparison.cosine, np.float64)


def means_between(values: Float64Array, ends: Sequence[int]) -> Float64Array:
    """The mean of each stretch of values, `[stretches]`, by where it ends."""
    counts = np.diff([0, *ends])
    means: Float64Array = np.add.reduceat(values, [0, *ends[:-1]]) / counts
    return means


@dataclass(slots=True)
class PerplexityJudge:
    """How many times the original's perplexity a language model has on the same windows.

    Args:
        reference: the original.
        batches: windows `input_ids` `[1, tokens]` with an empty cache.
        expected: mean negative log likelihood of each window, of the original.
    """

    reference: Run
    batches: tuple[Feeds, ...]
    expected: Float64Array | None = None

    def rows(self, run: Run) -> Array:
        """`[windows]`: what the mean negative log likelihood rises by, in nats."""
        if self.expected is None:
            self.expected = self._surprise(self.reference)
        return self._surprise(run) - self.expected

    def estimate(self, rows: Array, seed: int) -> Estimate:
        """The ratio."""
        return bootstrap(lambda picked: float(np.exp(rows[picked].mean())), len(rows), seed)

    def digest(self) -> str:
        """SHA-256 of the feeds."""
        return feeds_digest((feeds, 0) for feeds in self.batches)

    def _surprise(self, run: Run) -> Float64Array:
        """Mean negative log likelihood of each window, `[windows]`, in nats."""
        means = [
            negative_log_likelihood(run(feeds)["logits"][0, :-1], feeds[INPUT_IDS][0, 1:]).mean()
            for feeds in self.batches
        ]
        return np.asarray(means, np.float64)


class SpearmanJudge:
    """Points of Spearman's rank correlation (x 100) with gold scores that a candidate loses against the original.

    Args:
        canonical: names the embedding output.
        preprocessor: tokenizes.
        reference: the original.
        pairs: labelled.
    """

    def __init__(
        self, canonical: Component, preprocessor: Processor, reference: Run, pairs: LabelledPairs
    ) -> None:
        self.output = embedding_output(canonical)
        self.gold = np.asarray(pairs.scores)
        texts = list(dict.fromkeys(text for pair in pairs.pairs for text in pair))
        self.batches = Batches([Text(text) for text in texts], preprocessor)
        places = {texts[index]: place for place, index in enumerate(self.batches.order)}
        self.left = np.array([places[a] for a, _ in pairs.pairs])
        self.right = np.array([places[b] for _, b in pairs.pairs])
        self.reference = reference
        self._expected: Float64Array | None = None

    def similarities(self, run: Run) -> Float64Array:
        """Cosine of every pair, `[pairs]`."""
        vectors = np.concatenate([run(feeds)[self.output] for feeds, _ in self.batches])
        return cosines(vectors[self.left], vectors[self.right])

    def rows(self, run: Run) -> Array:
        """`[pairs, 3]`: gold, original's similarity, candidate's."""
        if self._expected is None:
            self._expected = self.similarities(self.reference)
        return np.stack([self.gold, self._expected, self.similarities(run)], axis=1)

    def estimate(self, rows: Array, seed: int) -> Estimate:
        """The drop in points."""
        return bootstrap(lambda picked: spearman_drop(rows, picked), len(rows), seed)

    def digest(self) -> str:
        """SHA-256 of the feeds and the scores."""
        pairs = np.stack([self.left, self.right], axis=1)
        return feeds_digest([*self.batches, ({"gold": self.gold, "pairs": pairs}, 0)])


def spearman_drop(rows: Array, picked: Indices) -> float:
    """Points lost on these rows of `[gold, original, candidate]`; 0 where the gold scores are all equal."""
    gold, original, candidate = rows[picked].T
    if gold.min() == gold.max():
        return 0.0
    return 100 * (spearman(gold, original) - spearman(gold, candidate))


def embedding_output(canonical: Component) -> str:
    """The sentence embedding.

    Raises:
        UsageError: the model has none.
    """
    for spec in canonical.outputs:
        if spec.role is Role.SENTENCE_EMBEDDING:
            return spec.name
    raise UsageError("spearman_drop needs a sentence embedding model", hint="use cosine=0.995 instead")


def metric_of(budget: Budget, head: Head) -> str:
    """What is measured; within a size KL divergence of choices, the error of numbers read one by one, else the cosine.

    Raises:
        UsageError: the budget is on what the outputs of this kind of model do not have, so that it would judge nothing.
    """
    has_direction = any(head.has_direction(spec) for spec in head.outputs)
    usual = "cosine_mean" if has_direction else "relative_error_mean"
    missing = _missing(budget.metric, head, has_direction=has_direction)
    if missing is not None:
        raise UsageError(
            f"{budget.metric} needs {missing}, and this model's kind is {head.entry.kind}",
            hint=_hint(head, has_direction=has_direction),
        )
    if budget.metric != SIZE:
        return budget.metric
    return "kl_mean" if head.has_choices else usual


def _missing(metric: str, head: Head, *, has_direction: bool) -> str | None:
    """What a metric looks at and a head does not have."""
    if metric in ("kl_mean", "top1_agreement") and not head.has_choices:
        return "a choice of one out of several"
    if metric in ("cosine_mean", "cosine_p01") and not has_direction:
        return "vectors"
    if metric == PERPLEXITY_RATIO and not head.entry.is_autoregressive:
        return "a model that predicts the next token"
    if head.entry.is_autoregressive and metric == "cosine_p01":
        return "rows that do not share their context"
    return "sentence embeddings" if head.entry.is_autoregressive and metric == SPEARMAN_DROP else None


def _hint(head: Head, *, has_direction: bool) -> str:
    if head.entry.is_autoregressive:
        return "use kl=0.05 or perplexity_ratio=1.02"
    return "use cosine=0.995" if has_direction else "use relative_error_mean=0.05"


def judges_of(
    metric: str,
    original: Original,
    data: TuneData,
    labelled: Path | None,
    seed: int,
    notify: Notify = ignore,
) -> tuple[Judge, Judge]:
    """Who decides, and who reports on data that decided nothing.

    Args:
        metric: from `metric_of`.
        original: the model.
        data: its texts.
        labelled: pairs, for `spearman_drop`.
        seed: of their division.
        notify: told that a line of them was taken as a header.
    """
    if labelled is not None:
        first, second = (
            SpearmanJudge(original.canonical, original.preprocessor, original.run, part)
            for part in divide_pairs(read_pairs(labelled, notify), seed)
        )
        return first, second
    if metric == PERPLEXITY_RATIO:
        return PerplexityJudge(original.run, data.decision), PerplexityJudge(original.run, data.report)
    return (
        FidelityJudge(metric, original.head, original.run, data.decision),
        FidelityJudge(metric, original.head, original.run, data.report),
    )
