"""Texts as token windows of a language model: those that calibrate, and those that judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.errors import DataError
from edgeq.pipeline.forward.data import DataSets
from edgeq.processors.prompts import PromptTokenizer
from edgeq.quantize.batches import FeedBatches
from edgeq.runtime.perplexity import Window, sliding_windows
from edgeq.types import Array, Sample

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
HELD_OUT_SHARE = 4
"""One text in so many is held out."""


@dataclass(frozen=True, slots=True)
class LanguageData:
    """Disjoint parts of the user's texts.

    Attributes:
        sets: calibration feeds as `quantize_model` reads them.
        calibration: the same tokens, `[windows, tokens]`.
        texts: how many texts calibrate.
        windows: held-out tokens that judge.
        prompts: starts of held-out texts, as token ids.
        prompt_texts: the same, as texts.
    """

    sets: DataSets
    calibration: Array
    texts: int
    windows: tuple[Window, ...]
    prompts: tuple[tuple[int, ...], ...]
    prompt_texts: tuple[str, ...]


def divide_language(
    data: CalibrationData, exported: ExportedLanguageModel | OriginalLanguageModel, calib_samples: int
) -> LanguageData:
    """Hold one text in four out, join each part and cut it into windows.

    Args:
        data: texts, in the order the seed gave.
        exported: the model.
        calib_samples: most texts to calibrate with.

    Raises:
        DataError: the data are tensors, or the texts have too few tokens.
    """
    if data.feeds is not None:
        raise DataError("language models calibrate on texts, got ready tensors", hint="--calib texts.txt")
    texts = texts_of(data.samples)
    held_out = texts[::HELD_OUT_SHARE]
    rest = [text for index, text in enumerate(texts) if index % HELD_OUT_SHARE][:calib_samples]
    tokenizer = PromptTokenizer(exported.preprocessor.tokenizer_json)
    context, rows = exported.settings.context_length, exported.settings.vocabulary
    judged = judged_windows(tokenizer, held_out, context, rows)
    windows = calibration_windows(_joined(tokenizer, rest, rows), context)
    prompts = [(text, tokenizer.encode(text)) for text in held_out]
    return LanguageData(
        sets=DataSets(window_feeds(windows, exported.settings.cache), len(rest), (), (), (), tuple(rest)),
        calibration=windows,
        texts=len(rest),
        windows=judged,
        prompts=tuple(tuple(ids) for _, ids in prompts),
        prompt_texts=tuple(text for text, _ in prompts),
    )


def text_counts(data: CalibrationData, calib_samples: int) -> tuple[int, int]:
    """How many texts `divide_language` holds out, and with how many it calibrates."""
    count = len(texts_of(data.samples))
    held_out = -(-count // HELD_OUT_SHARE)
    return held_out, min(count - held_out, calib_samples)


def judged_windows(
    tokenizer: PromptTokenizer, texts: list[str], context: int, rows: int
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
    ids = _joined(tokenizer, texts, rows)[:MOST_JUDGED_TOKENS]
    length = min(JUDGED_WINDOW, context)
    return tuple(sliding_windows(ids, length, max(1, length // 2)))


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
    feeds: dict[str, Array] = {"input_ids": windows, "attention_mask": np.ones_like(windows)}
    empty = np.zeros((count, cache.heads, 0, cache.size), np.float32)
    feeds |= {
        f"past_key_values.{layer}.{part}": empty for layer in range(cache.layers) for part in ("key", "value")
    }
    return FeedBatches(feeds, max(1, TOKENS_PER_BATCH // length))


def _joined(tokenizer: PromptTokenizer, texts: list[str], rows: int) -> Array:
    """Token ids of all texts in a row, each with the start token its tokenizer adds."""
    found = [tokenizer.encode(text) for text in texts]
    for ids in found:
        tokenizer.require_embeddings(ids, rows, "the texts hold")
    parts = [np.asarray(ids, np.int64) for ids in found]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def texts_of(samples: tuple[Sample, ...]) -> list[str]:
    """Pairs joined to one text."""
    return [" ".join(sample) if isinstance(sample, tuple) else sample for sample in samples]
