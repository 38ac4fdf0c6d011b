"""What quantizing one layer alone does to the model's outputs, and what about that layer explains it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.graph.component import Padding
from edgeq.metrics import EXACT_DB, sqnr_db
from edgeq.quantize.observers.ranges import clipped_share
from edgeq.quantize.plan import LinearDecision
from edgeq.quantize.shell import Shell
from edgeq.tasks import Head
from edgeq.types import Array, Feeds, FloatArray, TensorSpec

if TYPE_CHECKING:
    from edgeq.quantize.observers.histogram import Histogram
    from edgeq.quantize.observers.tensor import TensorStatistics

EXPECTED_BYTES = 1 << 28
"""The original's outputs held in memory; the rest lies in a temporary file."""
WIDE_CHANNELS = 20.0
"""Channels this many times wider than the median one decide a tensor's range and starve the others."""
HEAVY_TAIL = 30.0
"""Kurtosis (a normal distribution has 3) above which a few values decide a tensor's range."""
CLIPPED = 1e-4
OUTLIER_WEIGHT = 8.0
"""Largest weight in units of the RMS (a normal distribution of a million has 5)."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One layer as it would be quantized.

    Attributes:
        name: the layer.
        format: in words: `int4 b32`, `static int8`.
        weight: after quantization, `[in, out]` (tables `[columns, rows]`).
        static: its input range, where the input is quantized too.
    """

    name: str
    format: str
    weight: FloatArray
    static: LinearDecision | None = None


@dataclass(frozen=True, slots=True)
class LayerCauses:
    """What about a layer makes it hard to quantize; None where it was not observed.

    Attributes:
        weight_sqnr_db: of the quantized weight.
        weight_peak: largest weight in units of the RMS.
        input_low: lowest input.
        input_high: highest.
        channel_ratio: widest input channel over the median one.
        kurtosis: of the inputs; 3 for a normal distribution.
        clipped: share of the inputs outside the static range.
    """

    weight_sqnr_db: float
    weight_peak: float
    input_low: float | None = None
    input_high: float | None = None
    channel_ratio: float | None = None
    kurtosis: float | None = None
    clipped: float | None = None


@dataclass(frozen=True, slots=True)
class LayerEffect:
    """The outputs of a model with only this layer quantized, against the original.

    Attributes:
        name: the layer.
        format: how it was quantized.
        loss: see `loss_of`: what layers are ranked by.
        cosine: mean over rows.
        relative_error: mean of `|error| / |output|`.
        sqnr_db: of the outputs.
        kl: mean KL divergence, where a softmax reads the logits.
        causes: see `LayerCauses`.
        why: the likeliest cause in words.
    """

    name: str
    format: str
    loss: float
    cosine: float
    relative_error: float
    sqnr_db: float
    kl: float | None
    causes: LayerCauses
    why: str

    @property
    def loss_name(self) -> str:
        """What `loss` is of this model, for people."""
        if self.kl is not None:
            return "KL divergence"
        is_cosine = math.isclose(self.loss, 1 - self.cosine, rel_tol=1e-6, abs_tol=1e-12)
        return "1 - cosine" if is_cosine else "noise / signal / 2"

    def to_json(self) -> dict[str, Any]:
        """A JSON document."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> LayerEffect:
        """The inverse of `to_json`."""
        return cls(**{**document, "causes": LayerCauses(**document["causes"])})


class Prober:
    """Runs a model with one layer changed at a time, on the same batches.

    Args:
        shell: the graph.
        head: what to compare, and how its numbers are read.
        batches: feeds, held in memory; the original's outputs for them are too, up to `EXPECTED_BYTES`.
        padding: says which positions are not compared.
    """

    def __init__(
        self,
        shell: Shell,
        head: Head,
        batches: Sequence[Feeds],
        *,
        padding: Padding | None,
    ) -> None:
        from edgeq.quantize.segmented.values import ValueStore

        self.shell, self.head, self.padding = shell, head, padding
        self.batches = tuple(batches)
        self._session = shell.session()
        self.expected = ValueStore(EXPECTED_BYTES)
        for feeds in self.batches:
            self.expected.append(shell.run(self._session, feeds))

    def compare(self, candidates: Sequence[Candidate]) -> list[dict[str, float]]:
        """Metrics per output with these layers quantized together."""
        static = [item.static for item in candidates if item.static is not None]
        session = self.shell.session(static) if static else self._session
        changed = {item.name: item.weight for item in candidates}
        comparisons = self.head.compare_each()
        for feeds, expected in zip(self.batches, self.expected, strict=True):
            found = self.shell.run(session, feeds, changed)
            mask = None if self.padding is None else self.padding.mask(feeds)
            self.head.compare_batch(comparisons, expected, found, mask)
        return [comparison.metrics() for comparison in comparisons]

    def loss(self, candidates: Sequence[Candidate]) -> float:
        """See `loss_of`."""
        return loss_of(self.compare(candidates), self.head)

    def effect(self, candidate: Candidate, causes: LayerCauses) -> LayerEffect:
        """The effect of one layer."""
        return effect_of(candidate, self.compare([candidate]), self.head, causes)


def effect_of(
    candidate: Candidate, found: Sequence[Mapping[str, float]], head: Head, causes: LayerCauses
) -> LayerEffect:
    """The effect of one layer.

    Args:
        candidate: the layer.
        found: metrics per output with it alone quantized.
        head: how the outputs are read.
        causes: of the layer.
    """
    divergences = [metrics["kl_mean"] for metrics in found if "kl_mean" in metrics]
    return LayerEffect(
        candidate.name,
        candidate.format,
        loss_of(found, head),
        _mean(found, "cosine_mean"),
        _mean(found, "relative_error_mean"),
        _mean(found, "sqnr_db"),
        float(np.mean(divergences)) if divergences else None,
        causes,
        explain(causes),
    )


def loss_of(metrics: Sequence[Mapping[str, float]], head: Head) -> float:
    """What quantization lost, mean over outputs: KL divergence where a softmax reads the logits, else 1 - mean cosine.

    Of numbers that are read one by one (scores, several labels at once) rows have no direction: half the noise over the
    signal, which is what 1 - cosine is of small noise.
    """
    return float(
        np.mean([_loss(found, spec, head) for found, spec in zip(metrics, head.outputs, strict=True)])
    )


def _loss(found: Mapping[str, float], spec: TensorSpec, head: Head) -> float:
    if "kl_mean" in found:
        return found["kl_mean"]
    return 1 - found["cosine_mean"] if head.has_direction(spec) else 10 ** (-found["sqnr_db"] / 10) / 2


def _mean(metrics: Sequence[Mapping[str, float]], key: str) -> float:
    return float(np.mean([found[key] for found in metrics]))


def causes_of(weight: Array, candidate: Candidate, statistics: TensorStatistics | None = None) -> LayerCauses:
    """What about a layer explains its loss.

    Args:
        weight: the original, `[in, out]`.
        candidate: the layer quantized.
        statistics: of its input; None for tables.
    """
    exact = weight.astype(np.float64)
    noise = float(np.square(candidate.weight - exact).sum())
    signal = float(np.square(exact).sum())
    rms = np.sqrt(signal / max(exact.size, 1))
    fidelity = sqnr_db(signal, noise) if signal > 0 else EXACT_DB
    peak = float(np.abs(exact).max(initial=0.0) / rms) if rms > 0 else 0.0
    if statistics is None:
        return LayerCauses(fidelity, peak)
    return LayerCauses(
        fidelity,
        peak,
        statistics.min,
        statistics.max,
        channel_ratio(statistics.channel_absmax),
        kurtosis(statistics.histogram),
        None
        if candidate.static is None
        else clipped_share(statistics.histogram, *candidate.static.input_range),
    )


def channel_ratio(absmax: Array) -> float:
    """The widest channel over the median one; 1 where no channel ever was active."""
    median = float(np.median(absmax))
    return float(absmax.max()) / median if median > 0 else 1.0


def kurtosis(histogram: Histogram) -> float:
    """Fourth moment over the squared second one, about the mean; 0 for a constant."""
    if histogram.minimum == histogram.maximum:
        return 0.0
    share = histogram.counts / histogram.count
    centered = histogram.centers - float(share @ histogram.centers)
    second = float(share @ centered**2)
    return float(share @ centered**4) / second**2 if second > 0 else 0.0


def explain(causes: LayerCauses) -> str:
    """The likeliest cause, in words; thresholds are the constants of this module."""
    found = []
    if causes.clipped is not None and causes.clipped > CLIPPED:
        found.append(f"{causes.clipped:.2%} of its inputs are clipped")
    if causes.channel_ratio is not None and causes.channel_ratio > WIDE_CHANNELS:
        found.append(f"outlier channels: the widest input channel is {causes.channel_ratio:.0f}x the median")
    elif causes.clipped is not None and causes.kurtosis is not None and causes.kurtosis > HEAVY_TAIL:
        # Only a static range suffers from tails: weight-only layers read their inputs unrounded.
        found.append(
            f"heavy-tailed inputs (kurtosis {causes.kurtosis:.0f}): few values use most of the range"
        )
    if causes.weight_peak > OUTLIER_WEIGHT:
        found.append(f"outlier weights: the largest is {causes.weight_peak:.0f}x the RMS")
    found.append(f"weights at {causes.weight_sqnr_db:.1f} dB")
    return "; ".join(found)


def rank(effects: Sequence[LayerEffect]) -> list[LayerEffect]:
    """Most harmful first; equal losses by name."""
    return sorted(effects, key=lambda effect: (-effect.loss, effect.name))


def measure(
    prober: Prober,
    candidates: Iterable[Candidate],
    causes: Callable[[Candidate], LayerCauses],
    on_layer: Callable[[], None] = lambda: None,
) -> list[LayerEffect]:
    """Every candidate alone, ranked; each is let go before the next is asked for."""
    effects = []
    for candidate in candidates:
        effects.append(prober.effect(candidate, causes(candidate)))
        on_layer()
    return rank(effects)
