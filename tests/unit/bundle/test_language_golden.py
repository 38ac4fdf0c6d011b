"""`golden/language.json`: what is written is what is read, and damage is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeq.bundle.language_golden import (
    LANGUAGE_FILE,
    MAX_LANGUAGE_BYTES,
    GreedyAnswer,
    GreedyGolden,
    LanguageGolden,
    RenderedChat,
    TokenizedText,
    VocabularyGolden,
    read_language_golden,
)
from edgeq.errors import IntegrityError

GOLDEN = LanguageGolden(
    (TokenizedText("é\u200b", (1, 2), "é\u200b"),),
    VocabularyGolden(3, "00", {"0": "a", "2": "\u0120c"}),
    (
        RenderedChat("user", ({"role": "user", "content": "x"},), True, "<x>", (1,)),
        RenderedChat("system", ({"role": "system", "content": "x"},), False, None, (), "refused"),
    ),
    "2026-01-02T03:04:05",
    {"generation.json": {"stop_ids": [1, 2], "bos_token": None}},
    GreedyGolden("cpu-int4", 0.5, "noise", (GreedyAnswer("x", (1,), (2, 3), (1.0, -0.25)),)),
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    GOLDEN.save(tmp_path)
    assert read_language_golden(tmp_path) == GOLDEN


def test_older_bundles_have_none(tmp_path: Path) -> None:
    assert read_language_golden(tmp_path) is None


def test_keys_of_newer_versions_are_ignored(tmp_path: Path) -> None:
    GOLDEN.save(tmp_path)
    change(tmp_path, lambda document: document["vocabulary"].update(more=1))
    assert read_language_golden(tmp_path) == GOLDEN


def change(folder: Path, damage: Callable[[Any], object]) -> None:
    path = folder / LANGUAGE_FILE
    document = json.loads(path.read_text("utf-8"))
    damage(document)
    path.write_text(json.dumps(document))


def set_to(*place: str | int, value: Any) -> Callable[[Any], None]:
    def damage(document: Any) -> None:
        for key in place[:-1]:
            document = document[key]
        document[place[-1]] = value

    return damage


def without(*place: str | int) -> Callable[[Any], None]:
    def damage(document: Any) -> None:
        for key in place[:-1]:
            document = document[key]
        del document[place[-1]]

    return damage


ANSWER = ("greedy", "answers", 0)
DAMAGES = {
    "no texts": without("texts"),
    "no greedy": without("greedy"),
    "texts null": set_to("texts", value=None),
    "a text that is a number": set_to("texts", 0, "text", value=3),
    "a text no UTF-8 writes": set_to("texts", 0, "text", value="\ud800"),
    "ids null": set_to("texts", 0, "token_ids", value=None),
    "infinite ids": set_to("texts", 0, "token_ids", value=[float("inf")]),
    "ids of 128 bits": set_to("texts", 0, "token_ids", value=[10**30]),
    "ids of 5,000 digits": set_to("texts", 0, "token_ids", value=[10**4000]),
    "negative ids": set_to("texts", 0, "token_ids", value=[-1]),
    "fractions as ids": set_to("texts", 0, "token_ids", value=[1.5]),
    "true as an id": set_to("texts", 0, "token_ids", value=[True]),
    "tokens null": set_to("vocabulary", "tokens", value=None),
    "a word for an id": set_to("vocabulary", "tokens", value={"abc": "x"}),
    "a signed id": set_to("vocabulary", "tokens", value={"+1": "x"}),
    "an id of other digits": set_to("vocabulary", "tokens", value={"\u0661": "x"}),
    "an id of 128 bits": set_to("vocabulary", "tokens", value={str(10**30): "x"}),
    "a token null": set_to("vocabulary", "tokens", value={"1": None}),
    "a size of text": set_to("vocabulary", "size", value="3"),
    "a hash null": set_to("vocabulary", "sha256", value=None),
    "chats 3": set_to("chats", value=3),
    "a chat null": set_to("chats", 0, value=None),
    "messages 3": set_to("chats", 0, "messages", value=[3]),
    "contents null": set_to("chats", 0, "messages", value=[{"role": "user", "content": None}]),
    "begins 1": set_to("chats", 0, "add_generation_prompt", value=1),
    "neither text nor refusal": set_to("chats", 0, "text", value=None),
    "text and refusal": set_to("chats", 0, "refusal", value="no"),
    "no time": set_to("chat_time", value="x"),
    "time null": set_to("chat_time", value=None),
    "settings a list": set_to("settings", value=[]),
    "settings of a file 3": set_to("settings", value={"generation.json": 3}),
    "a setting too long": set_to("settings", value={"generation.json": {"a": [0] * 1000}}),
    "a margin NaN": set_to("greedy", "certain_margin", value=float("nan")),
    "a margin infinite": set_to("greedy", "certain_margin", value=float("inf")),
    "a margin beyond float64": set_to("greedy", "certain_margin", value=10**400),
    "a negative margin": set_to("greedy", "certain_margin", value=-0.5),
    "a variant null": set_to("greedy", "variant", value=None),
    "answers null": set_to("greedy", "answers", value=None),
    "no prompt": set_to(*ANSWER, "prompt_ids", value=[]),
    "a prompt of 128 bits": set_to(*ANSWER, "prompt_ids", value=[10**30]),
    "no margins": set_to(*ANSWER, "margins", value=[]),
    "margins NaN": set_to(*ANSWER, "margins", value=[float("nan"), 1.0]),
    "margins null": set_to(*ANSWER, "margins", value=[None, None]),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_said(name: str, tmp_path: Path) -> None:
    GOLDEN.save(tmp_path)
    change(tmp_path, DAMAGES[name])
    with pytest.raises(IntegrityError, match=r"golden/language\.json"):
        read_language_golden(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "an object"),
        ("{", "Expecting property name"),
        ("[" * 200_000 + "]" * 200_000, "nested too deeply"),
        ('{"texts": [{"text": "a", "token_ids": [1e400], "decoded": "a"}]}', "within float64"),
        (b"\xff", "utf-8"),
    ],
)
def test_what_is_no_document_is_said(text: str | bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / LANGUAGE_FILE
    path.parent.mkdir()
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(IntegrityError, match=words):
        read_language_golden(tmp_path)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / LANGUAGE_FILE
    path.parent.mkdir()
    with path.open("wb") as stream:
        stream.truncate(MAX_LANGUAGE_BYTES + 1)
    with pytest.raises(IntegrityError, match="bytes, expected at most"):
        read_language_golden(tmp_path)
