"""`golden/language.json`: what a language model's bundle does around its logits, stage by stage.

Texts with their token ids, chats as the template renders them, the settings that answers depend on, and the likeliest
answers to some prompts: an app, or `edgeq validate`, repeats each and sees where it differs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeq.errors import IntegrityError
from edgeq.files import atomic_write_text, contained_path

LANGUAGE_FILE = "golden/language.json"


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """A text, its token ids with those the tokenizer adds, and what they decode to without special tokens."""

    text: str
    token_ids: tuple[int, ...]
    decoded: str


@dataclass(frozen=True, slots=True)
class VocabularyGolden:
    """The tokenizer's tokens.

    Attributes:
        size: how many there are, added ones included.
        sha256: of the JSON object from token to id, sorted by token, without spaces, in UTF-8.
        tokens: some of them, to the very last, by id in decimal.
    """

    size: int
    sha256: str
    tokens: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A conversation as the chat template writes it.

    Attributes:
        name: `system and user`.
        messages: `{role, content}`, oldest first.
        add_generation_prompt: whether it ends where the assistant begins.
        text: what came out; None where the template refuses.
        token_ids: of the text, with no special tokens added.
        refusal: what the template says to such a conversation; None where it takes it.
    """

    name: str
    messages: tuple[Mapping[str, str], ...]
    add_generation_prompt: bool
    text: str | None
    token_ids: tuple[int, ...]
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class GreedyAnswer:
    """The likeliest tokens after a prompt.

    Attributes:
        prompt: text.
        prompt_ids: its tokens.
        token_ids: the answer, a stop token included.
        margins: by how much each one's logit is above the next best.
    """

    prompt: str
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    margins: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class GreedyGolden:
    """Answers of one variant.

    Attributes:
        variant: its id.
        certain_margin: above it no correct runtime chooses another token.
        derived_from: where that comes from, or why there are no answers.
        answers: none where running so many steps would take too long.
    """

    variant: str
    certain_margin: float
    derived_from: str
    answers: tuple[GreedyAnswer, ...] = ()


@dataclass(frozen=True, slots=True)
class LanguageGolden:
    """Everything of the file.

    Attributes:
        texts: of all kinds.
        vocabulary: of the tokenizer.
        chats: none where there is no template.
        chat_time: the time the template is told, ISO 8601.
        settings: by file of the bundle, then by key: a value, or `sha256:...` of the JSON of a long one.
        greedy: answers.
    """

    texts: tuple[TokenizedText, ...]
    vocabulary: VocabularyGolden
    chats: tuple[RenderedChat, ...]
    chat_time: str
    settings: Mapping[str, Mapping[str, Any]]
    greedy: GreedyGolden

    def save(self, folder: Path) -> None:
        """Write it below a bundle's folder; the same contents give the same bytes."""
        path = contained_path(folder, LANGUAGE_FILE)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(
            path, json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        )


def read_language_golden(folder: Path) -> LanguageGolden | None:
    """The file of a bundle's folder; None where there is none, as in bundles of older versions.

    Raises:
        IntegrityError: it is malformed.
    """
    path = contained_path(folder, LANGUAGE_FILE)
    if not path.is_file():
        return None
    try:
        return _from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"`{LANGUAGE_FILE}` cannot be read: {type(error).__name__}: {error}") from error


def _from_json(document: Mapping[str, Any]) -> LanguageGolden:
    greedy = document["greedy"]
    return LanguageGolden(
        texts=tuple(
            TokenizedText(str(item["text"]), _ids(item["token_ids"]), str(item["decoded"]))
            for item in document["texts"]
        ),
        vocabulary=VocabularyGolden(**document["vocabulary"]),
        chats=tuple(_chat(item) for item in document["chats"]),
        chat_time=str(document["chat_time"]),
        settings={name: dict(values) for name, values in document["settings"].items()},
        greedy=GreedyGolden(
            str(greedy["variant"]),
            float(greedy["certain_margin"]),
            str(greedy["derived_from"]),
            tuple(_answer(item) for item in greedy["answers"]),
        ),
    )


def _chat(item: Mapping[str, Any]) -> RenderedChat:
    return RenderedChat(
        str(item["name"]),
        tuple(dict(message) for message in item["messages"]),
        bool(item["add_generation_prompt"]),
        item["text"],
        _ids(item["token_ids"]),
        item["refusal"],
    )


def _answer(item: Mapping[str, Any]) -> GreedyAnswer:
    answer = GreedyAnswer(
        str(item["prompt"]),
        _ids(item["prompt_ids"]),
        _ids(item["token_ids"]),
        tuple(float(margin) for margin in item["margins"]),
    )
    if not answer.prompt_ids or len(answer.token_ids) != len(answer.margins):
        raise ValueError(f"{len(answer.token_ids)} tokens with {len(answer.margins)} margins")
    return answer


def _ids(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in values)
