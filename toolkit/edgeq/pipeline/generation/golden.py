"""Records `golden/language.json` while a bundle is made, from what its files do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import numpy as np

from edgeq.bundle.language_golden import (
    GreedyAnswer,
    GreedyGolden,
    LanguageGolden,
    RenderedChat,
    TokenizedText,
    VocabularyGolden,
)
from edgeq.errors import DataError
from edgeq.pipeline.generation.settings import read_settings, settings_files
from edgeq.processors.prompts import PromptTokenizer
from edgeq.runtime.generation.chat import render_chat
from edgeq.runtime.generation.settings import GENERATION_FILE, GenerationSettings
from edgeq.runtime.perplexity import Logits
from edgeq.types import FloatArray

TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    " a space before, and two behind  ",
    "two  spaces, three   and\ttabs\t\t, new\nlines\n\nand\r\nreturns",
    "don't can't I'LL we've o'clock",
    "ALL CAPS, CamelCase, snake_case, kebab-case",
    "0 1 12 123 1234 12345 3.14159 1,000,000 1e-9 2026-01-31",
    'def f(x):\n    return {"key": [x ** 2, None]}  # `code`',
    "https://example.org/a?b=c&d=%20#e, name@example.org",
    "Grüße aus Köln, naïve façade, Łódź, e\u0301 and é, ﬁ and ①",
    "Привет, мир! \u03b1\u03b2\u03b3 \u039a\u03cc\u03c3\u03bc\u03b5",
    "你好\uff0c世界。今日は良い天気です。안녕하세요",
    "مرحبا بالعالم שלום עולם नमस्ते दुनिया สวัสดี",
    "\U0001f642 \U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f1ea\U0001f1fa",
    "zero\u200bwidth, \ufeffmark, no\u00a0break, \u2026\u2014\u201cquotes\u201d",
)
"""Of every kind that tokenizers split by rules of their own."""
SYSTEM = {"role": "system", "content": "Answer in one sentence."}
USER = {"role": "user", "content": "What is the capital of France?"}
TURNS = (USER, {"role": "assistant", "content": "Paris."}, {"role": "user", "content": " And of Italy? "})
CHATS: Mapping[str, tuple[Mapping[str, str], ...]] = {
    "user only": (USER,),
    "system and user": (SYSTEM, USER),
    "two turns": TURNS,
    "system and two turns": (SYSTEM, *TURNS),
}
CHAT_TIME = datetime(2026, 1, 2, 3, 4, 5)
"""What templates are told that ask for the date: the real one would be another at every replay."""
SAMPLED_TOKENS = 48
SAMPLED_SPECIAL = 32
PROMPTS = ("Once upon a time", "The capital of France is", "1, 2, 3, 4,")
ANSWER_TOKENS = 16

Item = TypeVar("Item")
Step = Callable[[Sequence[int]], FloatArray]
"""Feeds some more tokens of a sequence; the logits after the last."""


@dataclass(frozen=True, slots=True)
class Answering:
    """A variant that is run for its answers.

    Attributes:
        variant: its id.
        start: begins a sequence of at most so many tokens, as an app generates.
        logits: of a whole sequence.
        noise: the most that a logit may be off.
    """

    variant: str
    start: Callable[[int], Step]
    logits: Logits
    noise: float


def record_language(folder: Path, tokenizer_json: str, model: str, greedy: GreedyGolden) -> LanguageGolden:
    """What the files of a bundle that is being made do.

    Args:
        folder: of the bundle; its settings are there.
        tokenizer_json: its tokenizer.
        model: the variant's file, relative.
        greedy: the variant's answers.
    """
    settings = GenerationSettings.load(folder / GENERATION_FILE)
    tokenizer = PromptTokenizer(tokenizer_json)
    return LanguageGolden(
        texts=tuple(tokenized(tokenizer, text) for text in golden_texts(tokenizer)),
        vocabulary=vocabulary_of(tokenizer),
        chats=tuple(rendered_chats(settings, tokenizer)),
        chat_time=CHAT_TIME.isoformat(),
        settings={name: read_settings(folder, name) for name in settings_files(folder, model)},
        greedy=greedy,
    )


def golden_texts(tokenizer: PromptTokenizer) -> list[str]:
    """Texts of every kind, special tokens written out, and texts that reach tokens from all over the vocabulary."""
    special = _sampled(sorted(tokenizer.special_tokens.values()), SAMPLED_SPECIAL)
    spelled = ["".join(f"{token}word" for token in special)] if special else []
    decoded = [
        tokenizer.decode([token]) for token in _sampled(sorted(tokenizer.vocabulary.values()), SAMPLED_TOKENS)
    ]
    return list(dict.fromkeys([*TEXTS, *spelled, *(text for text in decoded if text)]))


def tokenized(tokenizer: PromptTokenizer, text: str) -> TokenizedText:
    """A text through a tokenizer and back."""
    ids = tokenizer.encode(text)
    return TokenizedText(text, tuple(ids), tokenizer.decode(ids))


def vocabulary_of(tokenizer: PromptTokenizer, sampled: Iterable[int] | None = None) -> VocabularyGolden:
    """A tokenizer's vocabulary: the tokens of some ids, or of ids from all over it."""
    tokens = tokenizer.vocabulary
    by_id = {number: token for token, number in tokens.items()}
    chosen = _sampled(sorted(by_id), SAMPLED_TOKENS) if sampled is None else sampled
    text = json.dumps(tokens, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return VocabularyGolden(
        len(tokens), digest, {str(number): by_id[number] for number in chosen if number in by_id}
    )


def rendered_chats(settings: GenerationSettings, tokenizer: PromptTokenizer) -> list[RenderedChat]:
    """Every conversation, with and without the start of an answer; none where there is no template."""
    if settings.chat_template is None:
        return []
    return [
        rendered(settings, tokenizer, name, messages, begins, CHAT_TIME)
        for name, messages in CHATS.items()
        for begins in (True, False)
    ]


def rendered(
    settings: GenerationSettings,
    tokenizer: PromptTokenizer,
    name: str,
    messages: Sequence[Mapping[str, str]],
    begins: bool,
    now: datetime,
) -> RenderedChat:
    """One conversation through the template, or what the template says instead."""
    try:
        text = render_chat(settings, messages, add_generation_prompt=begins, now=now)
    except DataError as error:
        return RenderedChat(name, tuple(messages), begins, None, (), str(error))
    ids = tokenizer.encode(text, add_special_tokens=False)
    return RenderedChat(name, tuple(messages), begins, text, tuple(ids))


def _sampled(items: Sequence[Item], most: int) -> list[Item]:
    """Items from the first to the last, evenly."""
    if not items:
        return []
    places = np.linspace(0, len(items) - 1, min(most, len(items))).astype(int)
    return [items[place] for place in dict.fromkeys(places.tolist())]


def greedy_golden(tokenizer_json: str, settings: GenerationSettings, answering: Answering) -> GreedyGolden:
    """The answers of a variant."""
    tokenizer = PromptTokenizer(tokenizer_json)
    source = f"twice the largest tolerance of a logit in the golden cases, {answering.noise:.4g}"
    answers = [_answer(tokenizer, settings, answering, prompt) for prompt in PROMPTS]
    kept = tuple(item for item in answers if item.token_ids)
    return GreedyGolden(answering.variant, 2 * answering.noise, source, kept)


def _answer(
    tokenizer: PromptTokenizer, settings: GenerationSettings, answering: Answering, prompt: str
) -> GreedyAnswer:
    ids = tokenizer.encode(prompt)[: settings.context_length - 1]
    limit = min(ANSWER_TOKENS, settings.context_length - len(ids))
    step = answering.start(len(ids) + limit)
    new, found, margins = list(ids), list[int](), list[float]()
    while len(found) < limit and not (found and found[-1] in settings.stop_ids):
        row = step(new)
        new = [int(row.argmax())]
        found += new
        margins.append(margin_of(row, new[0]))
    together = answering.logits(np.asarray([*ids, *found], np.int64))[len(ids) - 1 : -1]
    # As one sequence and step by step the kernels are others: what either holds for uncertain is.
    lower = [min(a, margin_of(row, token)) for a, row, token in zip(margins, together, found, strict=True)]
    return GreedyAnswer(prompt, tuple(ids), tuple(found), tuple(float(f"{margin:.4g}") for margin in lower))


def margin_of(row: FloatArray, token: int) -> float:
    """By how much a token's logit is above the best of the others; negative where it is not the best."""
    others = np.delete(row.astype(np.float64), token)
    return float(row[token]) - float(others.max())
