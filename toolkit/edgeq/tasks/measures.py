"""Metrics of what a head's numbers mean: probabilities, independent probabilities, scores, spans."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from edgeq.metrics import Float64Array, largest, log_softmax, spearman
from edgeq.types import Array

TAIL = 99
"""Percentile of errors that a floor on the tail looks at; of agreements and cosines it is the 1st."""
AT_ONCE = 1 << 21
"""Logits whose probabilities are held at once, 16 MB in float64."""
LONGEST_SPAN = 30
"""Tokens; as `answer_span` of the bundle format."""


class Measure(Protocol):
    """Accumulates rows of one output."""

    def add(self, reference: Array, candidate: Array) -> None:
        """Rows `[rows, channels]` of both."""

    def metrics(self) -> dict[str, float]:
        """By name; NaN once a value was not finite."""


def mean_and_tail(name: str, errors: list[float]) -> dict[str, float]:
    """`NAME_mean` and `NAME_p99` of some errors."""
    return {f"{name}_mean": float(np.mean(errors)), f"{name}_p99": float(np.percentile(errors, TAIL))}


@dataclass(slots=True)
class Distributions:
    """Softmax probabilities of each row.

    `probability_error` is half the sum of the absolute differences, the total variation distance: no event's
    probability moves by more. `kl_p99` is the tail of the KL divergence, and `regret` the probability that the
    original gives its own first choice more than the other's: what a changed choice costs, nothing at a near tie.
    """

    errors: list[float] = field(default_factory=list)
    divergences: list[float] = field(default_factory=list)
    regrets: list[float] = field(default_factory=list)

    def add(self, reference: Array, candidate: Array) -> None:
        """Logits `[rows, classes]`; some rows at a time, for a vocabulary's are large."""
        step = max(AT_ONCE // reference.shape[1], 1)
        for start in range(0, len(reference), step):
            self._add(reference[start : start + step], candidate[start : start + step])

    def _add(self, reference: Array, candidate: Array) -> None:
        if not (np.isfinite(reference).all() and np.isfinite(candidate).all()):
            for values in (self.errors, self.divergences, self.regrets):
                values.extend([math.nan] * len(reference))
            return
        log_p, log_q = log_softmax(reference), log_softmax(candidate)
        p, q = np.exp(log_p), np.exp(log_q)
        self.errors.extend((np.abs(p - q).sum(axis=1) / 2).tolist())
        self.divergences.extend(np.maximum((p * (log_p - log_q)).sum(axis=1), 0).tolist())
        chosen = np.take_along_axis(p, candidate.argmax(axis=1)[:, None], axis=1)[:, 0]
        self.regrets.extend((p.max(axis=1) - chosen).tolist())

    def metrics(self) -> dict[str, float]:
        """Mean and tail."""
        return {
            **mean_and_tail("probability_error", self.errors),
            "kl_p99": float(np.percentile(self.divergences, TAIL)),
            "regret_mean": float(np.mean(self.regrets)),
        }


@dataclass(slots=True)
class Decisions:
    """Independent probabilities of each label: sigmoids, decided at 0.5.

    `probability_error` of a row is that of its worst label, so that one damaged label among many shows;
    `decision_agreement` is the share of labels, over all rows, on the same side of 0.5, and
    `label_agreement_min` that of the worst label.
    """

    errors: list[float] = field(default_factory=list)
    agreed: list[Array] = field(default_factory=list)

    def add(self, reference: Array, candidate: Array) -> None:
        """Logits `[rows, labels]`."""
        if not (np.isfinite(reference).all() and np.isfinite(candidate).all()):
            self.errors.extend([math.nan] * len(reference))
            self.agreed.append(np.full(reference.shape, math.nan))
            return
        self.errors.extend(np.abs(_sigmoid(reference) - _sigmoid(candidate)).max(axis=1).tolist())
        self.agreed.append(((reference > 0) == (candidate > 0)).astype(np.float64))

    def metrics(self) -> dict[str, float]:
        """Mean and tail over rows, agreement over labels."""
        agreed = np.concatenate(self.agreed)
        return {
            **mean_and_tail("probability_error", self.errors),
            "decision_agreement": float(agreed.mean()),
            "label_agreement_min": float(agreed.mean(axis=0).min()),
        }


SMALLEST_SPREAD = 0.01
"""Of the size of scores: an untrained head adds differences of a thousandth to its bias, which nobody reads."""


@dataclass(slots=True)
class Scores:
    """Numbers that are compared with each other: a reranker's relevance, a regression's values.

    `score_error` is the absolute difference in units of the standard deviation of the original's scores over all
    rows, or of a hundredth of their mean size where they differ by less: a score has no other scale of its own. Where
    all are 0 the unit is one. `rank_correlation` is Spearman's, the worst column's; 1 where the original ranks nothing.
    """

    reference: list[Array] = field(default_factory=list)
    candidate: list[Array] = field(default_factory=list)

    def add(self, reference: Array, candidate: Array) -> None:
        """Scores `[rows, columns]`."""
        self.reference.append(reference.astype(np.float64))
        self.candidate.append(candidate.astype(np.float64))

    def metrics(self) -> dict[str, float]:
        """Mean and tail of the error, and the order."""
        a, b = np.concatenate(self.reference), np.concatenate(self.candidate)
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            names = ("score_error_mean", "score_error_p99", "score_error_max", "rank_correlation")
            return dict.fromkeys(names, math.nan)
        errors = (np.abs(a - b) / _spread(a)).ravel().tolist()
        orders = [rank_correlation(left, right) for left, right in zip(a.T, b.T, strict=True)]
        found = mean_and_tail("score_error", errors)
        return found | {"score_error_max": largest(errors), "rank_correlation": min(orders)}


def _spread(scores: Float64Array) -> Float64Array:
    """The unit of each column."""
    spread = np.maximum(scores.std(axis=0), SMALLEST_SPREAD * np.abs(scores).mean(axis=0))
    unit: Float64Array = np.where(spread > 0, spread, 1.0)
    return unit


def rank_correlation(reference: Array, candidate: Array) -> float:
    """Spearman's; 1 where the reference ranks nothing, 0 where only the candidate does not."""
    if reference.min() == reference.max():
        return 1.0
    return 0.0 if candidate.min() == candidate.max() else spearman(reference, candidate)


@dataclass(slots=True)
class Spans:
    """Answers: the span with the largest start + end logit, as both models give it.

    `span_agreement` is the share of rows with the same span; `span_regret` how much less the original thinks of the
    other's span than of its own, in logits.
    """

    agreed: list[float] = field(default_factory=list)
    regrets: list[float] = field(default_factory=list)

    def add(self, reference: tuple[Array, Array], candidate: tuple[Array, Array], real: Array | None) -> None:
        """Start and end logits `[batch, sequence]` of both; `real` is nonzero where an answer may be."""
        for row in range(len(reference[0])):
            keep = slice(None) if real is None else real[row].astype(bool)
            pairs = [(start[row][keep], end[row][keep]) for start, end in (reference, candidate)]
            self._add_row(*pairs)

    def _add_row(self, reference: tuple[Array, Array], candidate: tuple[Array, Array]) -> None:
        if not all(np.isfinite(part).all() for part in (*reference, *candidate)):
            self.agreed.append(math.nan)
            self.regrets.append(math.nan)
            return
        scores = span_scores(*reference)
        mine, theirs = scores.argmax(), span_scores(*candidate).argmax()
        self.agreed.append(float(mine == theirs))
        self.regrets.append(float(scores.ravel()[mine] - scores.ravel()[theirs]))

    def metrics(self) -> dict[str, float]:
        """Agreement, and what disagreement costs."""
        return {
            "span_agreement": float(np.mean(self.agreed)),
            "span_regret_mean": float(np.mean(self.regrets)),
        }


def span_scores(start: Array, end: Array) -> Float64Array:
    """Start + end logit of every span, `[start, end]`; -inf where the end comes first or is too far."""
    length = np.arange(len(end))[None, :] - np.arange(len(start))[:, None]
    scores = start.astype(np.float64)[:, None] + end.astype(np.float64)[None, :]
    possible: Float64Array = np.where((length >= 0) & (length < LONGEST_SPAN), scores, -np.inf)
    return possible


def _sigmoid(logits: Array) -> Float64Array:
    probabilities: Float64Array = np.exp(-np.logaddexp(0.0, -logits.astype(np.float64)))
    return probabilities
