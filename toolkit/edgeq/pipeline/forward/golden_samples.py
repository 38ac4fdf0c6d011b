"""What golden vectors are made of: inputs that between them reach what single short texts cannot see.

Padding and batches, the second text's token types, every position up to the longest length, truncation, and rows of
the embedding table at its end and all over it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeq.quantize.batches import FeedBatches
from edgeq.samples import Sample, Text, TextPair
from edgeq.types import Feeds

if TYPE_CHECKING:
    from edgeq.processors.text import TextPreprocessor

SINGLES = 5
"""Single samples over the whole span of lengths."""
BATCH = 6
"""Samples of different lengths in one padded batch."""
MANY = 32
"""Shorter samples in another batch: noise cancels in the mean of so many rows, and damage does not."""
LAST_TOKENS = 12
SPREAD_TOKENS = 24
_TRIED_PER_TOKEN = 64
"""Ids looked at for one that some text reaches; most of a vocabulary is reachable."""


@dataclass(frozen=True, slots=True)
class GoldenSample:
    """One golden case before anything has run it.

    Attributes:
        id: also the name of its file.
        samples: what the feeds are made of; empty for ready tensors.
        feeds: canonical inputs.
    """

    id: str
    samples: tuple[Sample, ...]
    feeds: Feeds


def golden_samples(
    samples: Sequence[Sample], preprocessor: TextPreprocessor, lengths: Iterable[int]
) -> tuple[GoldenSample, ...]:
    """Cases made of held-out samples and of the vocabulary.

    Args:
        samples: held-out texts, or pairs where the model takes pairs.
        preprocessor: of the model, at its full length.
        lengths: longest sequences that variants take; the shortest is that of most cases.
    """
    limits = sorted({min(length, preprocessor.max_length) for length in lengths})
    judge = preprocessor.fit(limits[0])
    order = _by_length(samples, judge)
    cases: dict[str, tuple[Sample, ...]] = {
        f"single-{index:02d}": (sample,) for index, sample in enumerate(_spread(order, SINGLES))
    }
    cases["batch"] = tuple(_spread(order, BATCH))
    cases["many"] = tuple(_spread(order[: max(len(order) // 2, MANY)], MANY)) if len(order) > BATCH else ()
    if (pair := _pair(order)) is not None:
        cases["pair"] = (pair,)
    if rare := _rare_texts(judge):
        cases["rare"] = rare
    found = [GoldenSample(name, texts, judge(texts)) for name, texts in cases.items() if texts]
    for limit in limits:
        cut = (_longer_than(limit, order, preprocessor),)
        found.append(GoldenSample(f"cut-{limit}", cut, preprocessor.fit(limit)(cut)))
    return tuple(found)


def golden_feeds(feeds: Feeds) -> tuple[GoldenSample, ...]:
    """Cases of ready tensors: rows alone, and some together."""
    singles = [rows for rows, _ in FeedBatches({name: array[:SINGLES] for name, array in feeds.items()}, 1)]
    found = [GoldenSample(f"single-{index:02d}", (), rows) for index, rows in enumerate(singles)]
    batch, many = ({name: array[-rows:] for name, array in feeds.items()} for rows in (BATCH, MANY))
    is_more = len(next(iter(many.values()))) > BATCH
    return (
        *found,
        GoldenSample("batch", (), batch),
        *([GoldenSample("many", (), many)] if is_more else []),
    )


def _by_length(samples: Sequence[Sample], preprocessor: TextPreprocessor) -> list[Sample]:
    """Shortest first."""
    lengths = preprocessor.costs(samples)
    order = sorted(range(len(samples)), key=lambda index: (lengths[index], index))
    return [samples[index] for index in order]


def _spread(ordered: Sequence[Sample], count: int) -> list[Sample]:
    """Some of them, from the first to the last."""
    count = min(count, len(ordered))
    picked = [round(step * (len(ordered) - 1) / max(count - 1, 1)) for step in range(count)]
    return [ordered[index] for index in dict.fromkeys(picked)]


def _pair(ordered: Sequence[Sample]) -> Sample | None:
    """Two texts of middle length as one sample; None where samples are pairs already."""
    texts = [sample.text for sample in ordered if isinstance(sample, Text)]
    middle = len(texts) // 2
    return TextPair(texts[middle], texts[middle - 1]) if len(texts) > 1 else None


def _longer_than(limit: int, ordered: Sequence[Sample], preprocessor: TextPreprocessor) -> Sample:
    """One sample that must be cut to `limit` tokens, of different texts, so that every position has another token."""
    texts = [sample.texts[-1] for sample in reversed(ordered)]
    joined = ""
    while preprocessor.costs([Text(joined)])[0] <= limit:
        before = joined
        joined = " ".join([joined, *texts]).strip()
        if joined == before:  # only empty texts
            joined = "text " * limit
    return TextPair(ordered[0].texts[0], joined) if isinstance(ordered[-1], TextPair) else Text(joined)


def _rare_texts(preprocessor: TextPreprocessor) -> tuple[Sample, ...]:
    """Texts of the vocabulary's last tokens, and of tokens all over it."""
    size = preprocessor.vocabulary_size
    special = set(preprocessor.special_token_ids.values())
    last = _reached(range(size - 1, -1, -1), LAST_TOKENS, special, preprocessor)
    step = max(size // SPREAD_TOKENS, 1)
    spread = [
        word
        for start in range(0, size, step)
        for word in _reached(range(start, min(start + step, size)), 1, special, preprocessor)
    ]
    return tuple(Text(" ".join(words)) for words in (last, spread) if words)


def _reached(ids: Iterable[int], count: int, special: set[int], preprocessor: TextPreprocessor) -> list[str]:
    """Words that the tokenizer turns into these ids, until there are enough."""
    found: list[str] = []
    for tried, token_id in enumerate(ids):
        if len(found) == count or tried >= _TRIED_PER_TOKEN * count:
            break
        word = None if token_id in special else _word_of(token_id, preprocessor)
        if word is not None:
            found.append(word)
    return found


def _word_of(token_id: int, preprocessor: TextPreprocessor) -> str | None:
    """A word that holds a token: itself, or behind a letter where it only continues words."""
    token = preprocessor.id_to_token(token_id)
    return next(
        (form for form in _forms(token_id, preprocessor) if token in preprocessor.tokens(Text(form))),
        None,
    )


def _forms(token_id: int, preprocessor: TextPreprocessor) -> Iterator[str]:
    piece = preprocessor.decode([token_id]).strip()
    spelled = preprocessor.id_to_token(token_id)
    for text in dict.fromkeys((piece, spelled.strip("#▁Ġ "))):
        # The replacement character: a token that is part of a character, which no text of its own reaches.
        if text and "�" not in text:
            yield from (text, f"a{text}")
