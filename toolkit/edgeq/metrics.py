"""How close two sets of outputs are: cosine, SQNR, max-abs, top-1 agreement, KL divergence. Numpy only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgeq.types import Array, Role, TensorSpec

LOGIT_ROLES = frozenset({Role.LOGITS, Role.START_LOGITS, Role.END_LOGITS})
EXACT_DB = 200.0
"""SQNR reported for outputs that are equal, where the ratio would be infinite (JSON has no infinity)."""

Float64Array = npt.NDArray[np.float64]


def largest(values: Iterable[float]) -> float:
    """The largest of some numbers, NaN where any of them is: `max` would drop a NaN that does not come first."""
    return float(np.max(np.fromiter(values, np.float64)))


def largest_difference(reference: Array, candidate: Array) -> float:
    """`max |reference - candidate|`; NaN where either holds a value that is not finite, 0 for empty arrays."""
    if not (np.isfinite(reference).all() and np.isfinite(candidate).all()):
        return math.nan
    difference = np.abs(reference.astype(np.float64) - candidate.astype(np.float64))
    return float(difference.max(initial=0.0))


def cosines(reference: Array, candidate: Array) -> Float64Array:
    """Cosine of each row pair, `[rows]`; two zero rows count as equal, one zero row as 0; NaN where one is not finite.

    Args:
        reference: `[rows, channels]`.
        candidate: the same shape.
    """
    a, b = reference.astype(np.float64), candidate.astype(np.float64)
    with np.errstate(invalid="ignore"):
        norm_a, norm_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
        norms = norm_a * norm_b
        equal_zeros = (norm_a == 0) & (norm_b == 0)
        # Asked of 0, not of what is above it: a NaN is neither, and has to stay.
        quotients = np.einsum("rc,rc->r", a, b) / np.where(norms == 0, 1.0, norms)
    result: Float64Array = np.where(norms == 0, equal_zeros.astype(np.float64), quotients)
    return np.clip(result, -1.0, 1.0)


def relative_errors(reference: Array, candidate: Array) -> Float64Array:
    """`|candidate - reference| / |reference|` of each row (Euclidean norms), `[rows]`."""
    a, b = reference.astype(np.float64), candidate.astype(np.float64)
    norm = np.linalg.norm(a, axis=1)
    result: Float64Array = np.linalg.norm(b - a, axis=1) / np.where(norm > 0, norm, 1.0)
    return result


def kl_divergences(reference: Array, candidate: Array) -> Float64Array:
    """KL(reference || candidate) in nats of each row's softmax, `[rows]`."""
    log_p, log_q = log_softmax(reference), log_softmax(candidate)
    result: Float64Array = np.sum(np.exp(log_p) * (log_p - log_q), axis=1)
    return np.maximum(result, 0.0)


def log_softmax(logits: Array) -> Float64Array:
    """Log of the softmax of each row, `[rows, channels]`."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: Float64Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def spearman(x: Array, y: Array) -> float:
    """Spearman rank correlation, ties by average rank; NaN where a value is not finite, which has no rank."""
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return math.nan
    a, b = _ranks(np.asarray(x)), _ranks(np.asarray(y))
    a, b = a - a.mean(), b - b.mean()
    return float((a @ b) / math.sqrt((a @ a) * (b @ b)))


def _ranks(values: Array) -> Float64Array:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    average: Float64Array = (last - (counts - 1) / 2).astype(np.float64)
    return average[inverse]


def has_choices(spec: TensorSpec) -> bool:
    """Whether an output's rows are logits of several choices; the softmax of one logit is 1 whatever it is."""
    return spec.role in LOGIT_ROLES and spec.shape[-1] != 1


@dataclass(slots=True)
class OutputComparison:
    """Accumulates a comparison of one output over batches.

    Rows are samples (`[batch, channels]`), or tokens that are not padding (`[batch, sequence, channels]`).

    Args:
        spec: the output.
        is_softmax: a row's logits, where it has several, are read by one softmax; of a head that reads each by itself
            there is neither a first choice nor a divergence.
    """

    spec: TensorSpec
    is_softmax: bool = True
    cosine: list[float] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    agreed: list[float] = field(default_factory=list)
    max_abs: float = 0.0
    signal: float = 0.0
    noise: float = 0.0

    def add(self, reference: Array, candidate: Array, mask: Array | None) -> None:
        """Compare one batch.

        Args:
            reference: the original's output.
            candidate: the other's, the same shape.
            mask: `[batch, sequence]`, nonzero at real tokens; None when nothing is padded.
        """
        if reference.shape != candidate.shape:
            raise ValueError(
                f"`{self.spec.name}`: shapes {reference.shape} and {candidate.shape} cannot be compared"
            )
        for a, b in row_blocks(self.spec, reference, candidate, mask):
            self._add_rows(a, b)

    def _add_rows(self, a: Array, b: Array) -> None:
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            self._add_not_finite(len(a))
            return
        self.cosine.extend(cosines(a, b).tolist())
        difference = a.astype(np.float64) - b.astype(np.float64)
        self.distances.extend((abs(difference[:, 0]) if a.shape[1] == 1 else relative_errors(a, b)).tolist())
        self.max_abs = largest((self.max_abs, largest_difference(a, b)))
        self.signal += float(np.sum(np.square(a.astype(np.float64))))
        self.noise += float(np.sum(np.square(difference)))
        if self._has_choices:
            self.agreed.extend((a.argmax(axis=1) == b.argmax(axis=1)).astype(float).tolist())
            self.kl.extend(kl_divergences(a, b).tolist())

    @property
    def _has_choices(self) -> bool:
        return self.is_softmax and has_choices(self.spec)

    def _add_not_finite(self, rows: int) -> None:
        """Rows that nothing can be said of make every metric NaN: a mean must not hide them."""
        for values in (self.cosine, self.distances, self.kl, self.agreed):
            values.extend([math.nan] * rows)
        self.max_abs = self.signal = self.noise = math.nan

    def relative_errors(self) -> Float64Array:
        """Of each row: `|candidate - reference|` over the reference's length, `[rows]`.

        A row of one number may be near zero without meaning less: it is taken relative to the root mean square of all.
        """
        found = np.asarray(self.distances, np.float64)
        if self.spec.shape[-1] != 1:
            return found
        scale = math.sqrt(self.signal / max(len(found), 1))
        return found / scale if scale != 0 else found

    def metrics(self) -> dict[str, float]:
        """Every metric by name; `n` rows. All are NaN once a value was not finite."""
        if not self.cosine:
            raise ValueError(f"`{self.spec.name}`: nothing was compared")
        relative = self.relative_errors()
        found = {
            "n": float(len(self.cosine)),
            "cosine_mean": float(np.mean(self.cosine)),
            "cosine_p01": float(np.percentile(self.cosine, 1)),
            "cosine_min": float(np.min(self.cosine)),
            "relative_error_mean": float(np.mean(relative)),
            "relative_error_p95": float(np.percentile(relative, 95)),
            "sqnr_db": sqnr_db(self.signal, self.noise),
            "max_abs": self.max_abs,
        }
        if self._has_choices:
            found["top1_agreement"] = float(np.mean(self.agreed))
            found["kl_mean"] = float(np.mean(self.kl))
        return found


def sqnr_db(signal: float, noise: float) -> float:
    """Signal to quantization noise ratio in dB, at most `EXACT_DB`."""
    if math.isnan(signal) or math.isnan(noise):
        return math.nan
    if noise <= 0:
        return EXACT_DB
    return min(EXACT_DB, 10 * math.log10(signal / noise)) if signal > 0 else -EXACT_DB


def row_blocks(
    spec: TensorSpec, reference: Array, candidate: Array, mask: Array | None
) -> list[tuple[Array, Array]]:
    """Pairs of `[rows, channels]`: one for the batch, or one per sample where rows differ in length.

    Args:
        spec: decides by its role what `[batch, sequence]` means.
        reference: an output.
        candidate: the same shape.
        mask: `[batch, sequence]`, nonzero at real tokens; None when nothing is padded.
    """
    if reference.ndim == 3:
        keep = np.ones(reference.shape[:2], bool) if mask is None else mask.astype(bool)
        return [(reference[keep], candidate[keep])]
    if spec.role in (Role.START_LOGITS, Role.END_LOGITS) and mask is not None:
        kept = [row.astype(bool) for row in mask]
        return [(a[keep][None], b[keep][None]) for a, b, keep in zip(reference, candidate, kept, strict=True)]
    flat = (reference.shape[0], -1)
    return [(reference.reshape(flat), candidate.reshape(flat))]


LOWER_IS_BETTER = frozenset(
    {
        "max_abs",
        "relative_error_mean",
        "relative_error_p95",
        "kl_mean",
        "kl_p99",
        "probability_error_mean",
        "probability_error_p99",
        "regret_mean",
        "score_error_mean",
        "score_error_p99",
        "score_error_max",
        "span_regret_mean",
        "spearman_drop",
        "size_bytes",
    }
)
VECTOR_METRICS = (
    "cosine_mean",
    "cosine_p01",
    "cosine_min",
    "relative_error_mean",
    "relative_error_p95",
    "sqnr_db",
    "max_abs",
)
"""What every comparison of vectors has, in the order in which they are shown."""
KNOWN_METRICS: Sequence[str] = (
    *VECTOR_METRICS,
    "top1_agreement",
    "kl_mean",
    "kl_p99",
    "probability_error_mean",
    "probability_error_p99",
    "regret_mean",
    "decision_agreement",
    "label_agreement_min",
    "score_error_mean",
    "score_error_p99",
    "score_error_max",
    "rank_correlation",
    "span_agreement",
    "span_regret_mean",
)
"""What `--gate` may name; which of them a model has, its task says."""
SHARES = frozenset({"top1_agreement", "decision_agreement", "label_agreement_min", "span_agreement"})
"""Metrics between 0 and 1 besides cosines."""
TAIL_METRICS = frozenset({"cosine_p01", "kl_p99", "probability_error_p99", "score_error_p99"})
"""Percentiles over rows: what a mean hides."""
