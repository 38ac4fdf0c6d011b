"""Examples come from recorded outputs, name labels and words, and show first what changed."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from edgeq.bundle.golden import GoldenCase
from edgeq.bundle.language_golden import GreedyAnswer, GreedyGolden
from edgeq.bundle.manifest import Manifest, PostprocessKind, PostprocessStep
from edgeq.report.examples import Recorded, examples_section
from edgeq.report.html import report
from edgeq.samples import as_samples
from edgeq.types import Task

WORDS = ["[CLS]", "Anna", "saw", "Paris", "[MASK]", "cat", "dog"]
TOKENIZER = SimpleNamespace(
    id_to_token=WORDS.__getitem__,
    decode=lambda ids: " ".join(WORDS[index] for index in ids),
    special_token_ids={"mask_token": 4},
)


def case(texts, outputs: dict[str, np.ndarray], ids=None, name: str = "batch", positions=None) -> GoldenCase:
    """One output `logits` by contender; the original is `reference`."""
    ids = np.zeros((len(texts), 2), np.int64) if ids is None else np.array(ids, np.int64)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    named = {key: {"logits": np.array(value, np.float32)} for key, value in outputs.items()}
    reference = named.pop("reference")
    return GoldenCase(name, tuple(as_samples(texts)), feeds, reference, named, positions)


def shown(manifest: Manifest, task: Task, kinds, cases, labels=()) -> str:
    """The section's text, without markup."""
    steps = tuple(PostprocessStep(kind, ("logits",)) for kind in kinds)
    source = replace(manifest.source, task=task, labels=labels)
    manifest = replace(manifest, source=source, postprocess=steps)
    found = examples_section(manifest, Recorded(cases, TOKENIZER))
    assert found is not None
    return plain(found[2])


def plain(html: object) -> str:
    from html import unescape
    from re import sub

    return " ".join(unescape(sub(r"<[^>]+>", " ", str(html))).split())


CHOICE = (PostprocessKind.SOFTMAX, PostprocessKind.ARGMAX_LABEL)
NINE_TO_ONE = float(np.log(9))


def test_labels_with_probabilities_and_what_changed_first(manifest: Manifest) -> None:
    same = [NINE_TO_ONE, 0.0]
    cases = [
        case(
            ["kept", "turned"],
            {"reference": [same, same], "cpu-int8": [same, [0.0, NINE_TO_ONE]], "nnapi-int8": [same, same]},
        )
    ]
    text = shown(manifest, Task.SEQUENCE_CLASSIFICATION, CHOICE, cases, ("bad", "good"))
    assert "1 of 2 get another answer from some variant" in text
    assert "turned bad 90.0 % good 90.0 % bad 90.0 % kept bad 90.0 % bad 90.0 % bad 90.0 %" in text
    assert "names no labels" not in text


def test_nothing_changed_and_no_names(manifest: Manifest) -> None:
    rows = {"reference": [[1.0, 0.0]], "cpu-int8": [[1.1, 0.0]]}
    text = shown(manifest, Task.SEQUENCE_CLASSIFICATION, CHOICE, [case(["a"], rows)])
    assert "All 1 get the same answer from every variant." in text
    assert "LABEL_0 is its first output" in text


def test_rare_and_cut_cases_are_no_examples(manifest: Manifest) -> None:
    rows = {"reference": [[1.0, 0.0]], "cpu-int8": [[1.0, 0.0]]}
    cases = [case(["nonsense"], rows, name="rare"), case(["long"], rows, name="cut-48")]
    assert examples_section(manifest, Recorded(cases, TOKENIZER)) is None


def test_several_labels(manifest: Manifest) -> None:
    rows = {"reference": [[NINE_TO_ONE, 0.0], [-NINE_TO_ONE, -9.0]]}
    text = shown(
        manifest,
        Task.SEQUENCE_CLASSIFICATION,
        (PostprocessKind.SIGMOID,),
        [case(["a", "b"], rows)],
        ("x", "y"),
    )
    assert "a x 90.0 %, y 50.0 %" in text
    assert "b none (at most x 10.0 %)" in text


def test_scores_of_pairs(manifest: Manifest) -> None:
    rows = {"reference": [[2.5]], "cpu-int8": [[2.25]]}
    pair = [("a question", "an answer")]
    text = shown(manifest, Task.SEQUENCE_CLASSIFICATION, (PostprocessKind.SCORE,), [case(pair, rows)])
    assert "a question an answer 2.5 2.25" in text
    assert "same answer" not in text  # a number is no decision


def test_token_labels(manifest: Manifest) -> None:
    person, nothing = [0.0, 5.0], [5.0, 0.0]
    rows = {"reference": [[nothing, person, nothing]], "cpu-int8": [[nothing, nothing, nothing]]}
    text = shown(
        manifest, Task.TOKEN_CLASSIFICATION, CHOICE, [case(["Anna saw"], rows, [[0, 1, 2]])], ("O", "PER")
    )
    assert "Anna saw Anna PER no token has a label" in text
    assert "1 of 1 get another answer" in text


def test_masked_words_at_recorded_positions(manifest: Manifest) -> None:
    """Of four tokens two are recorded; the mask is the second of them."""
    filled = [0.0] * 5 + [9.0, 0.0]
    rows = {"reference": [[[0.0] * 7, filled]]}
    recorded = case(["a [MASK]"], rows, [[0, 1, 2, 4]], positions=np.array([0, 3]))
    text = shown(manifest, Task.FILL_MASK, (PostprocessKind.TOP_TOKENS,), [recorded])
    assert "a [MASK] cat 99.9 %" in text


def test_texts_without_a_mask_are_no_examples(manifest: Manifest) -> None:
    with pytest.raises(AssertionError):
        shown(
            manifest,
            Task.FILL_MASK,
            (PostprocessKind.TOP_TOKENS,),
            [case(["a"], {"reference": [[[0.0] * 7]]}, [[1]])],
        )


def test_closest_texts(manifest: Manifest) -> None:
    """Cosines of (1, 0), (0.8, 0.6) and (0, 1): 0.8, 0.6 and 0; the variant turns the first one over."""
    vectors = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
    turned = np.array([[0, 2], [0.8, 0.6], [0, 1]], np.float32)
    feeds = {"input_ids": np.zeros((3, 1), np.int64)}
    found = GoldenCase(
        "many",
        tuple(as_samples(["one", "two", "three"])),
        feeds,
        {"sentence_embedding": vectors},
        {"cpu-int8": {"sentence_embedding": turned}},
    )
    section = examples_section(manifest, Recorded([found], TOKENIZER))
    assert section is not None
    text = plain(section[2])
    assert "one 0.800 two 1.000 three" in text
    assert "three 0.600 two 1.000 one" in text
    assert "1 of 3 have the same closest text" in text


def test_a_language_model_goes_on(manifest: Manifest) -> None:
    greedy = GreedyGolden("cpu-int8", 0.1, "noise", (GreedyAnswer("Anna", (1,), (2, 3), (1.0, 1.0)),))
    section = examples_section(manifest, Recorded((), TOKENIZER, greedy))
    assert section is not None
    assert "Anna saw Paris" in plain(section[2])


def test_hostile_texts_stay_text(manifest: Manifest) -> None:
    rows = {"reference": [[1.0, 0.0]], "cpu-int8": [[0.0, 1.0]]}
    source = replace(manifest.source, task=Task.SEQUENCE_CLASSIFICATION, labels=("<script>x</script>", "b"))
    steps = tuple(PostprocessStep(kind, ("logits",)) for kind in CHOICE)
    bad = [case(["<img src=x>"], rows)]
    page = report(replace(manifest, source=source, postprocess=steps), recorded=Recorded(bad, TOKENIZER))
    assert "<script" not in page and "<img" not in page
    assert "&lt;img src=x&gt;" in page
