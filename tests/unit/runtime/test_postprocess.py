from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeq.bundle.manifest import PostprocessKind, PostprocessStep
from edgeq.errors import IntegrityError
from edgeq.processors.text import TextPreprocessor, TextSettings
from edgeq.runtime.postprocess import Context, answers, sigmoid, softmax

IDS = np.array([[2, 5, 6, 3], [2, 7, 3, 0]])
MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])


def _context(tiny: Any, labels: tuple[str, ...] = ("neg", "pos"), **feeds: np.ndarray) -> Context:
    feeds = {"input_ids": IDS, "attention_mask": MASK, **feeds}
    return Context(feeds, labels, tiny.preprocessor())


@given(hnp.arrays(np.float32, (3, 5), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_softmax_is_a_distribution_that_keeps_the_order(logits: np.ndarray) -> None:
    probabilities = softmax(logits)
    # Five float32 roundings of numbers up to 1.
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, atol=5 * 2**-24)
    best = np.take_along_axis(probabilities, logits.argmax(axis=-1)[:, None], -1)[:, 0]
    np.testing.assert_array_equal(best, probabilities.max(axis=-1))


def test_softmax_and_sigmoid_golden_values() -> None:
    # e / (1 + e) and 1 / (1 + e) to float32's precision.
    np.testing.assert_allclose(softmax(np.float32([1, 0])), [0.73105858, 0.26894142], rtol=1e-7)
    np.testing.assert_allclose(sigmoid(np.float32([1, -1000, 1000])), [0.73105858, 0, 1], rtol=1e-7)


def test_labels_and_scores_of_texts(tiny: Any) -> None:
    steps = [
        PostprocessStep(kind, ("logits",)) for kind in (PostprocessKind.SOFTMAX, PostprocessKind.ARGMAX_LABEL)
    ]
    first, second = answers(steps, {"logits": np.float32([[0, 1], [3, 0]])}, _context(tiny))
    assert (first["label"], second["label"]) == ("pos", "neg")
    assert list(first["scores"]) == ["neg", "pos"]
    assert first["scores"]["pos"] == pytest.approx(0.73105858, rel=1e-6)


def test_one_logit_is_answered_as_it_is_whatever_an_old_bundle_says(tiny: Any) -> None:
    """Its softmax is 1, and its label the only one there is."""
    steps = [
        PostprocessStep(kind, ("logits",)) for kind in (PostprocessKind.SOFTMAX, PostprocessKind.ARGMAX_LABEL)
    ]
    found = answers(steps, {"logits": np.float32([[-1.5], [3]])}, _context(tiny, ("LABEL_0",)))
    assert found == [{"score": -1.5}, {"score": 3.0}]


def test_labels_without_names_are_numbered(tiny: Any) -> None:
    step = PostprocessStep(PostprocessKind.ARGMAX_LABEL, ("logits",))
    (answer,) = answers([step], {"logits": np.float32([[0, 0, 9]])}, _context(tiny))
    assert answer == {"label": "LABEL_2"}


def test_token_labels_leave_padding_out(tiny: Any) -> None:
    logits = np.zeros((2, 4, 2), np.float32)
    logits[0, 1, 1] = logits[1, 3, 1] = 5
    step = PostprocessStep(PostprocessKind.ARGMAX_LABEL, ("logits",))
    first, second = answers([step], {"logits": logits}, _context(tiny))
    assert first["tokens"][1] == {"token": "cat", "label": "pos"}
    assert [item["label"] for item in second["tokens"]] == ["neg"] * 3
    (one, two) = answers(
        [PostprocessStep(PostprocessKind.SIGMOID, ("logits",))], {"logits": logits}, _context(tiny)
    )
    assert (len(one["token_scores"]), len(two["token_scores"])) == (4, 3)


def test_answers_are_spans_of_the_second_text(tiny: Any) -> None:
    # The question's token 1 scores best, but answers are in the context (type 1) and end after they start.
    start = np.float32([[0, 9, 1, 0], [0, 0, 5, 0]])
    end = np.float32([[0, 9, 2, 1], [0, 6, 1, 9]])
    types = np.array([[0, 0, 1, 1], [0, 1, 1, 0]])
    step = PostprocessStep(PostprocessKind.ANSWER_SPAN, ("start", "end"))
    first, second = answers([step], {"start": start, "end": end}, _context(tiny, token_type_ids=types))
    assert (first["start"], first["end"], first["answer"], first["score"]) == (2, 2, "sat", 3.0)
    assert (second["start"], second["end"], second["score"]) == (1, 1, 6.0)
    unmarked, _ = answers([step], {"start": start, "end": end}, _context(tiny))
    assert (unmarked["start"], unmarked["end"]) == (1, 1)


def test_words_at_the_mask(tiny: Any) -> None:
    special = {"mask_token": "cat"}
    preprocessor = TextPreprocessor(
        tiny.wordpiece_json(), TextSettings(16, "[PAD]", 0, special_tokens=special)
    )
    logits = np.zeros((2, 4, len(tiny.words)), np.float32)
    logits[0, 1, tiny.words.index("dog")] = 10
    logits[0, 1, tiny.words.index("sat")] = 9
    step = PostprocessStep(PostprocessKind.TOP_TOKENS, ("logits",), top_k=2)
    context = Context({"input_ids": IDS, "attention_mask": MASK}, (), preprocessor)
    first, second = answers([step], {"logits": logits}, context)
    assert [item["token"] for item in first["masks"][0]] == ["dog", "sat"]
    assert second["masks"] == []


def test_no_steps_no_answers(tiny: Any) -> None:
    assert answers([], {"logits": np.zeros((2, 2), np.float32)}, _context(tiny)) == []


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        (PostprocessKind.TOP_TOKENS, [(2, 3)]),
        (PostprocessKind.TOP_TOKENS, [(2, 5, 12)]),
        (PostprocessKind.ANSWER_SPAN, [(2, 4), (2, 5)]),
        (PostprocessKind.ANSWER_SPAN, [(2, 4), (2, 4, 1)]),
        (PostprocessKind.SOFTMAX, [(2,)]),
        (PostprocessKind.ARGMAX_LABEL, [(2, 5, 3)]),
    ],
)
def test_a_step_that_cannot_read_its_output_is_named(
    tiny: Any, kind: PostprocessKind, shapes: list[tuple[int, ...]]
) -> None:
    """The manifest is a stranger's: its steps need not fit its model."""
    outputs = {f"out{index}": np.zeros(shape, np.float32) for index, shape in enumerate(shapes)}
    with pytest.raises(IntegrityError, match=f"the step `{kind}` cannot read the output `out"):
        answers([PostprocessStep(kind, tuple(outputs))], outputs, _context(tiny))


def test_one_number_is_a_score_and_several_are_named(tiny: Any) -> None:
    step = PostprocessStep(PostprocessKind.SCORE, ("logits",))
    found = answers([step], {"logits": np.float32([[-3.5], [2]])}, _context(tiny))
    assert found == [{"score": -3.5}, {"score": 2.0}]
    found = answers([step], {"logits": np.float32([[1, 2], [3, 4]])}, _context(tiny))
    assert found[1] == {"values": {"neg": 3.0, "pos": 4.0}}


def test_labels_by_themselves_do_not_share_a_probability(tiny: Any) -> None:
    step = PostprocessStep(PostprocessKind.SIGMOID, ("logits",))
    first, _ = answers([step], {"logits": np.float32([[9, 9], [0, 0]])}, _context(tiny))
    assert min(first["scores"].values()) > 0.99
