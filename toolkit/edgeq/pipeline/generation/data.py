"""Texts as token windows of a language model: those that calibrate, and those that judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.errors import DataError
from edgeq.pipeline.forward.data import DataSets
from edgeq.pipeline.ready_feeds import ready_rows
from edgeq.processors.prompts import PromptTokenizer
from edgeq.processors.text_padding import TEXT_PADDING
from edgeq.quantize.batches import FeedBatches
from edgeq.runtime.perplexity import Window, sliding_windows
from edgeq.samples import Sample, Text
from edgeq.text_inputs import ATTENTION_MASK, INPUT_IDS
from edgeq.types import Array, Feeds

if TYPE_CHECKING:
    from edgeq.calibration import CalibrationData
    from edgeq.exporters.causal_lm import ExportedLanguageModel
    from edgeq.exporters.causal_lm.original import OriginalLanguageModel
    from edgeq.runtime.generation.settings import CacheShape

CALIBRATION_WINDOW = 128
MOST_CALIBRATION_WINDOWS = 256
JUDGED_WINDOW = 256
"""Tokens of a window that is judged; half of them are context of the next."""
MOST_JUDGED_TOKENS = 4096
TOKENS_PER_BATCH = 1024
MOST_MEASURED_TOKENS = 2048
"""Run once for every layer that is measured alone."""
HELD_OUT_SHARE = 4
"""One text in so many is held out."""


@dataclass(frozen=True, slots=True)
class LanguageData:
    """Disjoint parts of the user's texts or tensors.

    Attributes:
        sets: calibration feeds as `quantize_model` reads them; its search part, on which nothing is chosen and layers
            are measured one by one, are held-out windows.
        calibration: the same tokens, `[windows, tokens]`.
        windows: held-out tokens that judge.
        prompts: starts of held-out texts, as token ids.
        prompt_texts: the same, as texts; empty ones for ready tensors.
    """

    sets: DataSets
    calibration: Array
    windows: tuple[Window, ...]
    prompts: tuple[tuple[int, ...], ...]
    prompt_texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Documents:
    """Samples as token ids, each with the start token its tokenizer adds.

    Attributes:
        ids: `[tokens]` of each.
        texts: what they were made of; empty for ready tensors.
    """

    ids: tuple[Array, ...]
    texts: tuple[str, ...]

    def part(self, indices: Sequence[int]) -> _Documents:
        """Some of them."""
        texts = tuple(self.texts[index] for index in indices) if self.texts else ()
        return _Documents(tuple(self.ids[index] for index in indices), texts)

    @property
    def joined(self) -> Array:
        """All in a row."""
        return np.concatenate(self.ids) if self.ids else np.zeros(0, np.int64)


def divide_language(
    data: CalibrationData, exported: ExportedLanguageModel | OriginalLanguageModel, calib_samples: int
) -> LanguageData:
    """Hold one sample in four out, join each part and cut it into windows.

    Args:
        data: texts or ready tensors, in the order the seed gave.
        exported: the model.
        calib_samples: most samples to calibrate with.

    Raises:
        DataError: tensors that no tokenizer gives, or too few tokens.
    """
    settings = exported.settings
    documents = _documents(data, exported)
    indices = range(len(documents.ids))
    held_out = documents.part(indices[::HELD_OUT_SHARE])
    rest = documents.part([index for index in indices if index % HELD_OUT_SHARE][:calib_samples])
    judged = _judged(held_out, settings.context_length)
    windows = calibration_windows(rest.joined, settings.context_length)
    # Judged windows slide by half their length.
    search = measured_feeds([window.ids for window in judged[::2]], settings.cache)
    calibration = window_feeds(windows, settings.cache)
    return LanguageData(
        sets=DataSets(
            calibration, len(rest.ids), search, (), (), tuple(map(Text, rest.texts)), padding=TEXT_PADDING
        ),
        calibration=windows,
        windows=judged,
        prompts=tuple(tuple(int(token) for token in ids) for ids in held_out.ids),
        prompt_texts=held_out.texts or ("",) * len(held_out.ids),
    )


def _documents(data: CalibrationData, exported: ExportedLanguageModel | OriginalLanguageModel) -> _Documents:
    if data.feeds is None:
        return _encoded(texts_of(data.samples), exported)
    rows = min(exported.preprocessor.vocabulary_size, exported.settings.vocabulary)
    return _Documents(tuple(ready_rows(data.feeds, rows)), ())


def _encoded(texts: Sequence[str], exported: ExportedLanguageModel | OriginalLanguageModel) -> _Documents:
    tokenizer = PromptTokenizer(exported.preprocessor.tokenizer_json)
    return _Documents(tuple(token_ids(tokenizer, texts, exported.settings.vocabulary)), tuple(texts))


def text_counts(data: CalibrationData, calib_samples: int) -> tuple[int, int]:
    """How many samples `divide_language` holds out, and with how many it calibrates."""
    count = len(data)
    held_out = -(-count // HELD_OUT_SHARE)
    return held_out, min(count - held_out, calib_samples)


def judged_windows(
    tokenizer: PromptTokenizer, texts: Sequence[str], context: int, rows: int
) -> tuple[Window, ...]:
    """Sliding windows over some texts joined: half a window of context for every scored token.

    Args:
        tokenizer: of the model.
        texts: to judge on.
        context: most tokens of a window.
        rows: of the embedding table.

    Raises:
        DataError: too few tokens, or one that the model has no embedding for.
    """
    return _judged(_Documents(tuple(token_ids(tokenizer, texts, rows)), ()), context)


def _judged(documents: _Documents, context: int) -> tuple[Window, ...]:
    length = min(JUDGED_WINDOW, context)
    return tuple(sliding_windows(documents.joined[:MOST_JUDGED_TOKENS], length, max(1, length // 2)))


def calibration_windows(ids: Array, context: int) -> Array:
    """Full windows, `[windows, tokens]`.

    Raises:
        DataError: not one window.
    """
    length = min(CALIBRATION_WINDOW, context)
    count = min(len(ids) // length, MOST_CALIBRATION_WINDOWS)
    if count == 0:
        raise DataError(
            f"the calibration texts have {len(ids)} tokens, expected at least {length}",
            hint="--calib with more text",
        )
    return ids[: count * length].reshape(count, length)


def window_feeds(windows: Array, cache: CacheShape) -> FeedBatches:
    """Windows with an empty past."""
    count, length = windows.shape
    feeds: dict[str, Array] = {INPUT_IDS: windows, ATTENTION_MASK: np.ones_like(windows)}
    empty = np.zeros((count, cache.heads, 0, cache.size), np.float32)
    feeds |= {
        f"past_key_values.{layer}.{part}": empty for layer in range(cache.layers) for part in ("key", "value")
    }
    return FeedBatches(feeds, max(1, TOKENS_PER_BATCH // length))


def measured_feeds(windows: Sequence[Array], cache: CacheShape) -> tuple[Feeds, ...]:
    """Windows `[tokens]` that share no token as batches of one, so many as are run again and again."""
    tokens = np.cumsum([len(ids) for ids in windows])
    fitting = max(1, int(np.sum(tokens <= MOST_MEASURED_TOKENS)))
    return tuple(feeds for ids in windows[:fitting] for feeds, _ in window_feeds(ids[None], cache))


def window_batches(texts: Sequence[str], exported: ExportedLanguageModel) -> FeedBatches:
    """Texts as batches of full windows.

    Raises:
        DataError: not one window, or a token that the model has no embedding for.
    """
    settings = exported.settings
    windows = calibration_windows(_encoded(texts, exported).joined, settings.context_length)
    return window_feeds(windows, settings.cache)


def text_windows(texts: Sequence[str], exported: ExportedLanguageModel) -> list[Array]:
    """Texts as windows `[tokens]` that share no token; of too few tokens for one, one that is shorter.

    Raises:
        DataError: fewer than 2 tokens, or one that the model has no embedding for.
    """
    ids = _encoded(texts, exported).joined
    if len(ids) < 2:
        raise DataError(f"a text of {len(ids)} tokens predicts nothing, expected at least 2")
    length = min(CALIBRATION_WINDOW, exported.settings.context_length, len(ids))
    return list(ids[: len(ids) // length * length].reshape(-1, length))


def token_ids(tokenizer: PromptTokenizer, texts: Sequence[str], rows: int) -> list[Array]:
    """Token ids of each text, `[tokens]`, with the start token its tokenizer adds.

    Raises:
        DataError: a token that the model has no embedding for.
    """
    found = [tokenizer.encode(text) for text in texts]
    for ids in found:
        tokenizer.require_embeddings(ids, rows, "the texts hold")
    return [np.asarray(ids, np.int64) for ids in found]


def texts_of(samples: Sequence[Sample]) -> list[str]:
    """Pairs joined to one text."""
    return [" ".join(sample.texts) for sample in samples]
