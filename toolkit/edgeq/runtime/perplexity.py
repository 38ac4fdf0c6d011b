"""How well a language model predicts a text, and how far another model's predictions are from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgeq.errors import DataError
from edgeq.metrics import OutputComparison
from edgeq.tasks.entry import COMPARED_VALUES
from edgeq.tasks.measures import Distributions
from edgeq.types import Array, FloatArray, Role, TensorSpec

Logits = Callable[[Array], FloatArray]
"""Token ids `[tokens]` to logits `[tokens, vocabulary]`."""


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Tokens run from an empty cache.

    Attributes:
        ids: `[tokens]`.
        first_scored: predictions of the tokens from here on count; those before are context.
    """

    ids: Array
    first_scored: int


def sliding_windows(ids: Sequence[int] | Array, length: int, stride: int) -> list[Window]:
    """Windows of `length` tokens every `stride` tokens: each token but the first is scored once.

    A scored token has at least `length - stride` tokens of context where the text has them, as in the evaluation
    transformers documents for models of fixed length.

    Raises:
        DataError: fewer than 2 tokens.
        ValueError: not `1 <= stride < length`.
    """
    if not 1 <= stride < length:
        raise ValueError(f"stride {stride} for windows of {length} tokens; expected 1 to {length - 1}")
    tokens = np.asarray(ids, np.int64)
    if tokens.size < 2:
        raise DataError(f"a text of {tokens.size} tokens predicts nothing, expected at least 2")
    windows, scored = [], 1
    for begin in range(0, tokens.size, stride):
        end = min(begin + length, tokens.size)
        windows.append(Window(tokens[begin:end], scored - begin))
        scored = end
        if end == tokens.size:
            break
    return windows


@dataclass(slots=True)
class LanguageComparison:
    """Accumulates predictions of an original and of another model over the same tokens."""

    spec: TensorSpec = field(
        default_factory=lambda: TensorSpec("logits", "float32", ("rows", "v"), Role.LOGITS)
    )
    _outputs: OutputComparison = field(init=False)
    _probabilities: Distributions = field(default_factory=Distributions)
    _ends: list[int] = field(default_factory=list)
    _nll: list[float] = field(default_factory=list)
    _nll_original: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._outputs = OutputComparison(self.spec)

    def add(self, original: FloatArray, candidate: FloatArray, next_ids: Array) -> None:
        """Compare predictions of one stretch of text.

        Args:
            original: logits `[rows, vocabulary]`.
            candidate: the same shape.
            next_ids: the tokens that came, `[rows]`.
        """
        self._outputs.add(original, candidate, None)
        self._probabilities.add(original, candidate)
        self._nll_original += negative_log_likelihood(original, next_ids).tolist()
        self._nll += negative_log_likelihood(candidate, next_ids).tolist()
        if len(next_ids):
            self._ends.append(len(self._nll))

    def metrics(self) -> dict[str, float]:
        """Metrics of `OutputComparison` and of `Distributions`, and those of language models.

        These are `perplexity` and `perplexity_original`, `kl_se` (standard error of the mean KL divergence)
        and `delta_p_rms` (root mean square of what the probability of the token that came changes by).
        """
        changes = np.exp(-np.asarray(self._nll)) - np.exp(-np.asarray(self._nll_original))
        return {
            **self._outputs.metrics(),
            **self._probabilities.metrics(),
            "kl_se": clustered_error(np.asarray(self._outputs.kl), self._ends),
            "perplexity": float(np.exp(np.mean(self._nll))),
            "perplexity_original": float(np.exp(np.mean(self._nll_original))),
            "delta_p_rms": float(np.sqrt(np.mean(np.square(changes)))),
        }


def clustered_error(values: npt.NDArray[np.float64], ends: Sequence[int]) -> float:
    """Standard error of the mean of values that come in stretches, which are independent of each other.

    Tokens of one stretch share their context and err together, so counting them as independent would promise too
    much. With a single stretch there is nothing else to count.

    Args:
        values: one per token.
        ends: where each stretch ends.
    """
    centered = values - values.mean()
    if len(ends) < 2:
        return float(np.sqrt(np.sum(centered**2) / max(len(values) - 1, 1) / len(values)))
    sums = np.add.reduceat(centered, [0, *ends[:-1]])
    return float(np.sqrt(np.sum(sums**2) * len(ends) / (len(ends) - 1)) / len(values))


def negative_log_likelihood(logits: FloatArray, next_ids: Array) -> npt.NDArray[np.float64]:
    """`-log p` in nats of the tokens that came, `[rows]`."""
    wide = logits.astype(np.float64)
    top = wide.max(axis=1)
    log_sum = top + np.log(np.exp(wide - top[:, None]).sum(axis=1))
    result: npt.NDArray[np.float64] = log_sum - wide[np.arange(len(wide)), np.asarray(next_ids)]
    return result


def compare_on(
    original: Logits,
    candidate: Logits,
    windows: Iterable[Window],
    on_window: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Metrics of `candidate` against `original` on the scored tokens of some windows.

    Raises:
        DataError: there is no window.
    """
    kept = list(windows)
    return compare_scored(scored_logits(original, kept), scored_logits(candidate, kept), kept, on_window)


def scored_logits(logits: Logits, windows: Iterable[Window]) -> Iterator[FloatArray]:
    """Of each window, the logits that predict its scored tokens."""
    return (logits(window.ids)[window.first_scored - 1 : -1] for window in windows)


def compare_scored(
    expected: Iterable[FloatArray],
    found: Iterable[FloatArray],
    windows: Sequence[Window],
    on_window: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """`compare_on` of two models' `scored_logits`.

    Raises:
        DataError: there is no window.
    """
    if not windows:
        raise DataError("no text to compare on")
    comparison = LanguageComparison()
    for original, candidate, window in zip(expected, found, windows, strict=True):
        following = window.ids[window.first_scored :]
        step = max(1, COMPARED_VALUES // original.shape[1])
        for start in range(0, len(following), step):
            part = slice(start, start + step)
            comparison.add(original[part], candidate[part], following[part])
        on_window()
    return comparison.metrics()


def perplexity(logits: Logits, windows: Iterable[Window]) -> float:
    """`exp` of the mean negative log likelihood of the scored tokens."""
    values: list[float] = []
    for window in windows:
        rows = slice(window.first_scored - 1, len(window.ids) - 1)
        values += negative_log_likelihood(
            logits(window.ids)[rows], window.ids[window.first_scored :]
        ).tolist()
    if not values:
        raise DataError("no text to score")
    return float(np.exp(np.mean(values)))


def greedy(logits: Logits, prompt_ids: Sequence[int], tokens: int, stop_ids: Sequence[int] = ()) -> list[int]:
    """The likeliest continuation, recomputed from the start for every token: slow, and beyond doubt."""
    ids = list(prompt_ids)
    for _ in range(tokens):
        ids.append(int(logits(np.asarray(ids, np.int64))[-1].argmax()))
        if ids[-1] in stop_ids:
            break
    return ids[len(prompt_ids) :]


def agreement_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens before the first difference."""
    for index, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return index
    return min(len(a), len(b))
