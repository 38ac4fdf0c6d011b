"""The next token from logits: greedy, or sampled with temperature, top-k, top-p and a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeq.errors import ModelError, UsageError
from edgeq.runtime.generation.settings import SamplingDefaults
from edgeq.types import FloatArray

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_p: smallest set of likeliest tokens whose probabilities reach this (Holtzman et al. 2020).
        top_k: only this many likeliest tokens; 0 is all.
        repetition_penalty: logits of tokens that were there are divided by it (multiplied where negative),
            as in CTRL (Keskar et al. 2019).
        seed: of the random choices.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        checks = (
            (np.isfinite(self.temperature) and self.temperature >= 0, "temperature", "0 or more"),
            (0 < self.top_p <= 1, "top-p", "above 0 and at most 1"),
            (self.top_k >= 0, "top-k", "0 (all) or more"),
            (
                np.isfinite(self.repetition_penalty) and self.repetition_penalty > 0,
                "repetition penalty",
                "above 0",
            ),
            (self.seed >= 0, "seed", "0 or more"),
        )
        for holds, name, expected in checks:
            if not holds:
                value = getattr(self, name.replace("-", "_").replace(" ", "_"))
                raise UsageError(f"{name} {value} is out of range, expected {expected}")

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0

    @classmethod
    def of_model(cls, defaults: SamplingDefaults, seed: int = 0) -> Sampling:
        """As the model's own generation config asks."""
        return cls(
            temperature=defaults.temperature if defaults.do_sample else 0.0,
            top_p=defaults.top_p,
            top_k=defaults.top_k,
            repetition_penalty=defaults.repetition_penalty,
            seed=seed,
        )


class Sampler:
    """Chooses tokens for one answer; the same seed and logits give the same tokens."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._random = np.random.default_rng(sampling.seed)

    def next(self, logits: FloatArray, seen: Sequence[int]) -> int:
        """The next token.

        Args:
            logits: `[vocabulary]`.
            seen: tokens of the prompt and the answer so far, for the repetition penalty.

        Raises:
            ModelError: logits are NaN or infinite.
        """
        if not np.isfinite(logits).all():
            raise ModelError("the model returns NaN or infinite logits")
        scores = self._penalized(logits, seen)
        if self.sampling.is_greedy:
            return int(scores.argmax())
        probabilities = truncated_probabilities(scores, self.sampling)
        # One uniform number per token, inverted through the cumulative sum: the stream of random numbers does not
        # depend on how many tokens were cut off.
        drawn = np.searchsorted(np.cumsum(probabilities), self._random.random(), side="right")
        return int(min(drawn, np.flatnonzero(probabilities)[-1]))

    def _penalized(self, logits: FloatArray, seen: Sequence[int]) -> Float64Array:
        scores: Float64Array = logits.astype(np.float64)
        if self.sampling.repetition_penalty != 1 and len(seen):
            tokens = np.unique(np.asarray(seen, np.int64))
            penalty = self.sampling.repetition_penalty
            scores[tokens] = np.where(scores[tokens] > 0, scores[tokens] / penalty, scores[tokens] * penalty)
        return scores


def truncated_probabilities(scores: Float64Array, sampling: Sampling) -> Float64Array:
    """Probabilities `[vocabulary]` after temperature, top-k and top-p, float64, summing to 1.

    Temperature divides before the cuts, as transformers does.
    """
    scaled = scores.astype(np.float64) / sampling.temperature
    order = np.argsort(-scaled, kind="stable")
    probabilities = np.exp(scaled[order] - scaled[order[0]])
    if sampling.top_k:
        probabilities[sampling.top_k :] = 0
    probabilities /= probabilities.sum()
    # A token stays when those before it do not reach top_p yet: the likeliest one always does.
    probabilities[np.cumsum(probabilities) - probabilities >= sampling.top_p] = 0
    result: Float64Array = np.zeros_like(probabilities)
    result[order] = probabilities / probabilities.sum()
    return result
