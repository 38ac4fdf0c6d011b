"""Parts of a replay that need no bundle; tests/e2e/test_language_mutations.py has the rest."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeq.bundle.language_golden import (
    GreedyAnswer,
    GreedyGolden,
    LanguageGolden,
    RenderedChat,
    VocabularyGolden,
)
from edgeq.bundle.manifest import Variant
from edgeq.errors import IntegrityError
from edgeq.pipeline.generation.language_report import LanguageReport
from edgeq.pipeline.generation.replay import (
    _with_chats,
    answer_sequences,
    language_golden_of,
    replay_answers,
)
from edgeq.runtime.generation.settings import CacheShape, GenerationSettings
from edgeq.runtime.generation.template_process import REFUSES
from edgeq.types import Role, TensorSpec

LOGITS = TensorSpec("logits", "float32", ("batch", "sequence", 8), Role.LOGITS)


def variant(outputs: tuple[TensorSpec, ...] = (LOGITS,), **requirements: Any) -> Variant:
    return Variant(
        "v",
        {"model": "m.onnx"},
        "onnxruntime",
        "CPUExecutionProvider",
        "int4",
        (),
        outputs,
        1,
        None,
        requirements,
    )


def golden(*answers: GreedyAnswer, certain: float = 0.5) -> LanguageGolden:
    greedy = GreedyGolden("v", certain, "noise", answers)
    return LanguageGolden((), VocabularyGolden(8, "", {}), (), "2026-01-02T03:04:05", {}, greedy)


ANSWER = GreedyAnswer("x", (1, 2), (3, 4), (1.0, 2.0))


def test_answers_that_fit_the_variant_are_sequences() -> None:
    assert answer_sequences(golden(ANSWER), variant(context_length=4)) == [(1, 2, 3, 4)]
    assert answer_sequences(golden(ANSWER), replace(variant(), id="other")) == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (replace(ANSWER, prompt_ids=(1, 8)), "token 8; `v` predicts one of 8"),
        (replace(ANSWER, token_ids=(3, 2**31 - 1)), "token 2147483647"),
        (replace(ANSWER, prompt_ids=(1, 1, 2)), "5 tokens with its prompt; the context of `v` is 4"),
    ],
)
def test_answers_that_do_not_are_refused(answer: GreedyAnswer, words: str) -> None:
    with pytest.raises(IntegrityError, match=words):
        answer_sequences(golden(answer), variant(context_length=4))


@pytest.mark.parametrize(("certain", "doubted"), [(1.5, False), (2.0, True), (1e9, True)])
def test_answers_that_bind_nothing_are_said(certain: float, doubted: bool) -> None:
    rows = [np.eye(8, dtype=np.float32)[[0, 3, 4, 0]]]
    report = replay_answers(LanguageReport(), golden(ANSWER, certain=certain), variant(), rows)
    assert not report.differences
    words = "v: 0 of 2 greedy tokens are certain: they are ahead of the next best by at most 2"
    assert [notice.startswith(words) for notice in report.notices] == [True] * doubted


def test_no_answers_are_in_no_doubt() -> None:
    assert golden().greedy.doubt is None


def test_a_token_beyond_the_logits_is_refused_where_the_manifest_is_silent() -> None:
    rows = [np.zeros((4, 8), np.float32)]
    record = golden(replace(ANSWER, token_ids=(3, 8)))
    assert answer_sequences(record, variant(())) == [(1, 2, 3, 8)]
    with pytest.raises(IntegrityError, match="token 8; `v` gives 8 logits"):
        replay_answers(LanguageReport(), record, variant(()), rows)


def test_answers_of_a_variant_that_is_not_there_are_refused(tmp_path: Path) -> None:
    golden(ANSWER).save(tmp_path)
    there: Any = SimpleNamespace(folder=tmp_path, variants=[variant()])
    assert language_golden_of(there) == golden(ANSWER)
    there.variants = [replace(variant(), id="other")]
    with pytest.raises(IntegrityError, match="answers of `v`, which is not in the bundle"):
        language_golden_of(there)


REFUSED, ZERO = "{{ raise_exception('no system message') }}", "{{ 1 / 0 }}"
SAID, FAILED = f"{REFUSES}no system message", "the chat template fails: ZeroDivisionError: in other words"


def settings(template: str) -> GenerationSettings:
    return GenerationSettings(40, 8, (), CacheShape(1, 1, 1), chat_template=template)


def with_chat(refusal: str | None, text: str | None = None) -> LanguageGolden:
    chat = RenderedChat("user", ({"role": "user", "content": "x"},), True, text, (), refusal)
    return replace(golden(), chats=(chat,))


@pytest.mark.parametrize(
    ("template", "recorded", "problems"),
    [
        (REFUSED, SAID, []),
        (REFUSED, f"{REFUSES}another", [f"chat `user`: {SAID}"]),
        (ZERO, FAILED, []),
        (ZERO, SAID, ["chat `user`: the chat template fails: ZeroDivisionError: division by zero"]),
        (REFUSED, FAILED, [f"chat `user`: {SAID}"]),
    ],
)
def test_refusals_are_compared_by_words_where_the_template_chose_them(
    template: str, recorded: str, problems: list[str]
) -> None:
    tokenizer: Any = SimpleNamespace(encode=lambda text, **_: [])
    record = with_chat(recorded)
    report = _with_chats(LanguageReport(), settings(template), tokenizer, record)
    assert [item.what for item in report.differences] == problems
    # A refusal is never as good as a text.
    report = _with_chats(LanguageReport(), settings(template), tokenizer, with_chat(None, "x"))
    assert len(report.differences) == 1
    report = _with_chats(LanguageReport(), settings("x"), tokenizer, record)
    assert [item.what for item in report.differences] == [f"chat `user`: is taken, recorded: {recorded}"]


def test_without_jinja_chats_are_not_compared_and_the_rest_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    tokenizer: Any = None
    before = LanguageReport().extended("texts", 1, ["token ids of 'x'"])
    report = _with_chats(before, settings("x"), tokenizer, with_chat(None, "x"))
    assert report.differences == before.differences and "chats" not in report.repeated
    assert len(report.notices) == 1 and "`llm` extra" in report.notices[0]
