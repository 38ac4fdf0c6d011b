"""How a tuned candidate is judged: one value per row against the original, and a statistic with its bounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgeq.comparison import Run
from edgeq.errors import UsageError
from edgeq.metrics import Float64Array, OutputComparison, cosines, spearman
from edgeq.quantize.batches import Batches
from edgeq.quantize.bootstrap import Estimate, Indices, bootstrap
from edgeq.quantize.cache import feeds_digest
from edgeq.tasks.labelled import LabelledPairs
from edgeq.types import Array, Feeds, Outputs, Role

if TYPE_CHECKING:
    from edgeq.graph.component import Component
    from edgeq.processors.base import Processor
    from edgeq.tasks import Head
    from edgeq.types import Sample


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
    expected: list[Outputs] = field(default_factory=list)

    def rows(self, run: Run) -> Array:
        """`[rows]`."""
        if not self.expected:
            self.expected.extend(self.reference(feeds) for feeds in self.batches)
        comparisons = self.head.compare_each()
        for feeds, expected in zip(self.batches, self.expected, strict=True):
            found = run(feeds)
            for comparison in comparisons:
                name = comparison.spec.name
                comparison.add(expected[name], found[name], feeds.get("attention_mask"))
        return np.concatenate([self._values(comparison) for comparison in comparisons])

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


class SpearmanJudge:
    """Points of Spearman's rank correlation (x 100) with gold scores that a candidate loses against the original.

    Args:
        canonical: names the embedding output.
        preprocessor: tokenizes.
        reference: the original.
        pairs: labelled.
    """

    def __init__(
        self, canonical: Component, preprocessor: Processor[Sample], reference: Run, pairs: LabelledPairs
    ) -> None:
        self.output = embedding_output(canonical)
        self.gold = np.asarray(pairs.scores)
        texts = list(dict.fromkeys(text for pair in pairs.pairs for text in pair))
        self.batches = Batches(texts, preprocessor)
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
