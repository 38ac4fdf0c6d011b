"""Golden samples reach what single short texts cannot see."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from edgeq.pipeline.forward.golden_samples import BATCH, MANY, golden_feeds, golden_samples
from edgeq.processors.text import TextPreprocessor, TextSettings
from edgeq.samples import Text, TextPair

WORDS = ("the cat", "a dog ran", "the cats sat", "a cat sat the dog ran", "dog", "the dog ran a cat sat b")
TEXTS = tuple(map(Text, WORDS))


def preprocessor(tiny: Any, side: str = "right", inputs: tuple[str, ...] = ()) -> TextPreprocessor:
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    names = inputs or ("input_ids", "attention_mask", "token_type_ids")
    return TextPreprocessor(tiny.wordpiece_json(), TextSettings(16, "[PAD]", 0, names, side, special))  # type: ignore[arg-type]


@pytest.fixture
def cases(tiny: Any) -> dict[str, Any]:
    return {item.id: item for item in golden_samples(TEXTS, preprocessor(tiny), (8, 16))}


def test_every_kind_is_there(cases: dict[str, Any]) -> None:
    assert set(cases) == {*(f"single-{i:02d}" for i in range(5)), "batch", "pair", "rare", "cut-8", "cut-16"}
    assert all(len(cases[f"single-{i:02d}"].samples) == 1 for i in range(5))


def test_the_batch_is_padded(cases: dict[str, Any]) -> None:
    mask = cases["batch"].feeds["attention_mask"]
    assert len(mask) == 6 and len(set(mask.sum(axis=1))) > 2 and mask.min() == 0


def test_the_pair_has_two_token_types(cases: dict[str, Any]) -> None:
    assert set(cases["pair"].feeds["token_type_ids"].ravel()) == {0, 1}


@pytest.mark.parametrize("limit", [8, 16])
def test_a_text_is_cut_to_each_length(limit: int, cases: dict[str, Any], tiny: Any) -> None:
    cut = cases[f"cut-{limit}"]
    assert cut.feeds["input_ids"].shape == (1, limit)
    assert preprocessor(tiny).costs(cut.samples)[0] > limit


def test_cutting_follows_the_tokenizer_s_side(tiny: Any) -> None:
    left, right = (
        {item.id: item for item in golden_samples(TEXTS, preprocessor(tiny, side), (8,))}["cut-8"]
        for side in ("left", "right")
    )
    assert left.samples == right.samples
    assert not np.array_equal(left.feeds["input_ids"], right.feeds["input_ids"])


def test_the_last_tokens_and_continuations_are_reached(cases: dict[str, Any], tiny: Any) -> None:
    reached = set(cases["rare"].feeds["input_ids"].ravel())
    assert reached >= {
        tiny.words.index(word) for word in ("b", "a", "##s", "ran", "dog", "sat", "cat", "the")
    }


def test_pairs_stay_pairs(tiny: Any) -> None:
    pairs = tuple(TextPair(*pair) for pair in pairwise(WORDS))
    cases = {item.id: item for item in golden_samples(pairs, preprocessor(tiny), (16,))}
    assert "pair" not in cases and all(isinstance(sample, TextPair) for sample in cases["batch"].samples)
    assert isinstance(cases["cut-16"].samples[0], TextPair)


def test_one_text_is_enough(tiny: Any) -> None:
    cases = {item.id: item for item in golden_samples((Text("the cat"),), preprocessor(tiny), (16,))}
    assert {"single-00", "batch", "rare", "cut-16"} == set(cases)


def test_the_same_samples_give_the_same_cases(tiny: Any) -> None:
    first, second = (golden_samples(TEXTS, preprocessor(tiny), (8, 16)) for _ in range(2))
    assert [(item.id, item.samples) for item in first] == [(item.id, item.samples) for item in second]


def test_many_short_samples_where_there_are_more_than_a_batch(tiny: Any) -> None:
    texts = tuple(Text(" ".join(["cat"] * (1 + index % 9))) for index in range(80))
    cases = {item.id: item for item in golden_samples(texts, preprocessor(tiny), (16,))}
    many, batch = cases["many"].feeds["input_ids"], cases["batch"].feeds["input_ids"]
    assert len(many) == MANY and many.shape[1] < batch.shape[1]


@pytest.mark.parametrize(("rows", "many"), [(BATCH, []), (BATCH + 4, [BATCH + 4]), (50, [MANY])])
def test_ready_tensors_give_rows_and_batches(rows: int, many: list[int]) -> None:
    feeds = {
        "input_ids": np.arange(4 * rows).reshape(rows, 4),
        "attention_mask": np.ones((rows, 4), np.int64),
    }
    cases = golden_feeds(feeds)
    sizes = [len(item.feeds["input_ids"]) for item in cases]
    assert [item.id for item in cases[:6]] == [*(f"single-{i:02d}" for i in range(5)), "batch"]
    assert cases[1].feeds["input_ids"].tolist() == [[4, 5, 6, 7]] and sizes[5:] == [BATCH, *many]
