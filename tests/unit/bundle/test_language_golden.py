"""`golden/language.json`: what is written is what is read, and damage is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeq.bundle.language_golden import (
    LANGUAGE_FILE,
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


def without_margins(document: Any) -> None:
    document["greedy"]["answers"][0]["margins"] = []


@pytest.mark.parametrize(
    "damage",
    [
        lambda document: document.pop("texts"),
        lambda document: document.update(chats=3),
        lambda document: document.update(settings=[]),
        lambda document: document["vocabulary"].update(more=1),
        without_margins,
    ],
)
def test_damage_is_said(damage: Any, tmp_path: Path) -> None:
    GOLDEN.save(tmp_path)
    path = tmp_path / LANGUAGE_FILE
    document = json.loads(path.read_text("utf-8"))
    damage(document)
    path.write_text(json.dumps(document))
    with pytest.raises(IntegrityError, match=r"golden/language\.json"):
        read_language_golden(tmp_path)
