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

from edgeq.bundle import language_fields as fields
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

    @property
    def doubt(self) -> str | None:
        """What to tell where the answers bind no runtime to any token; None where they do, or there are none."""
        margins = [margin for answer in self.answers for margin in answer.margins]
        if not margins or max(margins) > self.certain_margin:
            return None
        return (
            f"0 of {len(margins)} greedy tokens are certain: they are ahead of the next best by at most "
            f"{max(margins):.3g}, and up to {self.certain_margin:.3g} may turn over ({self.derived_from})"
        )


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
        return _from_json(fields.read_document(path))
    except KeyError as error:
        raise IntegrityError(f"`{LANGUAGE_FILE}` cannot be read: it has no {error}") from error
    except RecursionError as error:
        raise IntegrityError(f"`{LANGUAGE_FILE}` cannot be read: it is nested too deeply") from error
    except (OSError, ValueError) as error:
        raise IntegrityError(f"`{LANGUAGE_FILE}` cannot be read: {error}") from error


def _from_json(document: Mapping[str, Any]) -> LanguageGolden:
    """Keys that are not known here belong to newer versions."""
    return LanguageGolden(
        texts=fields.items(document["texts"], _text),
        vocabulary=_vocabulary(document["vocabulary"]),
        chats=fields.items(document["chats"], _chat),
        chat_time=fields.iso_time(document["chat_time"]),
        settings=fields.settings(document["settings"]),
        greedy=_greedy(document["greedy"]),
    )


def _text(value: Any) -> TokenizedText:
    item = fields.obj(value)
    return TokenizedText(
        fields.text(item["text"]), fields.token_ids(item["token_ids"]), fields.text(item["decoded"])
    )


def _vocabulary(value: Any) -> VocabularyGolden:
    item = fields.obj(value)
    return VocabularyGolden(
        fields.token_id(item["size"]), fields.text(item["sha256"]), fields.tokens_by_id(item["tokens"])
    )


def _chat(value: Any) -> RenderedChat:
    item = fields.obj(value)
    chat = RenderedChat(
        fields.text(item["name"]),
        fields.items(item["messages"], fields.texts_by_key),
        fields.flag(item["add_generation_prompt"]),
        fields.text_or_none(item["text"]),
        fields.token_ids(item["token_ids"]),
        fields.text_or_none(item["refusal"]),
    )
    if (chat.text is None) == (chat.refusal is None):
        raise ValueError(f"the chat {chat.name!r:.40} needs either a text or a refusal")
    return chat


def _greedy(value: Any) -> GreedyGolden:
    item = fields.obj(value)
    return GreedyGolden(
        fields.text(item["variant"]),
        fields.not_negative(item["certain_margin"]),
        fields.text(item["derived_from"]),
        fields.items(item["answers"], _answer),
    )


def _answer(value: Any) -> GreedyAnswer:
    item = fields.obj(value)
    answer = GreedyAnswer(
        fields.text(item["prompt"]),
        fields.token_ids(item["prompt_ids"]),
        fields.token_ids(item["token_ids"]),
        fields.items(item["margins"], fields.number),
    )
    if not answer.prompt_ids or len(answer.token_ids) != len(answer.margins):
        raise ValueError(
            f"an answer to {len(answer.prompt_ids)} tokens has {len(answer.token_ids)} with "
            f"{len(answer.margins)} margins"
        )
    return answer
