"""`golden/language.json`: what a language model's bundle does around its logits, stage by stage.

Texts with their token ids, chats as the template renders them, the settings that answers depend on, and the likeliest
answers to some prompts: an app, or `edgeq validate`, repeats each and sees where it differs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from edgeq.bundle.codec import Between, TokenId, decode
from edgeq.bundle.documents import read_document
from edgeq.errors import IntegrityError
from edgeq.files import atomic_write_text, contained_path

LANGUAGE_FILE = "golden/language.json"
MAX_LANGUAGE_BYTES = 16 << 20
"""What is recorded takes some 100 kB."""
MAX_SETTING = 1000
"""Bytes of a setting's JSON; longer ones are recorded as their hash."""


class IsoTime:
    """In `Annotated`: a time, as ISO 8601 writes it."""

    def check(self, value: str) -> None:
        """Raise ValueError for any other text."""
        datetime.fromisoformat(value)


class DecimalIds:
    """In `Annotated`: an object whose keys are token ids in decimal."""

    def check(self, value: Mapping[str, str]) -> None:
        """Raise ValueError for any other key; `int` alone would take signs, spaces and digits of other scripts."""
        for key in value:
            if not (key.isascii() and key.isdigit() and len(key) <= 10 and str(int(key)) == key):
                raise ValueError(f"got {key!r:.60}, expected a token id in decimal")


class Short:
    """In `Annotated`: JSON as short as settings are recorded."""

    def check(self, value: Any) -> None:
        """Raise ValueError where it is longer."""
        if len(json.dumps(value, ensure_ascii=False).encode("utf-8")) > MAX_SETTING:
            raise ValueError(f"a setting is longer than {MAX_SETTING} bytes of JSON")


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """A text, its token ids with those the tokenizer adds, and what they decode to without special tokens."""

    text: str
    token_ids: tuple[TokenId, ...]
    decoded: str


@dataclass(frozen=True, slots=True)
class VocabularyGolden:
    """The tokenizer's tokens.

    Attributes:
        size: how many there are, added ones included.
        sha256: of the JSON object from token to id, sorted by token, without spaces, in UTF-8.
        tokens: some of them, to the very last, by id in decimal.
    """

    size: TokenId
    sha256: str
    tokens: Annotated[Mapping[str, str], DecimalIds()]


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
    token_ids: tuple[TokenId, ...]
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
    prompt_ids: tuple[TokenId, ...]
    token_ids: tuple[TokenId, ...]
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
    certain_margin: Annotated[float, Between(0)]
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
    chat_time: Annotated[str, IsoTime()]
    settings: Mapping[str, Mapping[str, Annotated[Any, Short()]]]
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
        # Keys that are not known here belong to newer versions.
        golden, _ = decode(LanguageGolden, read_document(path, max_bytes=MAX_LANGUAGE_BYTES))
        _check_parts(golden)
    except (OSError, ValueError) as error:
        raise IntegrityError(f"`{LANGUAGE_FILE}` cannot be read: {error}") from error
    return golden


def _check_parts(golden: LanguageGolden) -> None:
    for chat in golden.chats:
        if (chat.text is None) == (chat.refusal is None):
            raise ValueError(f"the chat {chat.name!r:.40} needs either a text or a refusal")
    for answer in golden.greedy.answers:
        if not answer.prompt_ids or len(answer.token_ids) != len(answer.margins):
            raise ValueError(
                f"an answer to {len(answer.prompt_ids)} tokens has {len(answer.token_ids)} with "
                f"{len(answer.margins)} margins"
            )
