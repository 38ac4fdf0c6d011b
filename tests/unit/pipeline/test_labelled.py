"""Task metrics against their definitions; lines of the wrong form name their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.comparison import Run
from edgeq.errors import DataError, EdgeqError, ModelError, UnsupportedError, UsageError
from edgeq.pipeline.labelled import Labelled, read_labelled
from edgeq.pipeline.labelled_result import LabelledResult
from edgeq.samples import Sample, TextPair
from edgeq.tasks import Head, head_of
from edgeq.types import Array, Feeds, Outputs, ProblemType, Role, SourceInfo, Task, TensorSpec


def head(task: Task, output: str, *shape: int, problem: ProblemType | None = None) -> Head:
    source = SourceInfo("m", None, (), None, task, "bert", 1, ("no", "yes"), problem)
    return head_of(source, [TensorSpec(output, "float32", ("batch", *shape), Role(output))])


CLASSIFIER = head(Task.SEQUENCE_CLASSIFICATION, "logits", 2)
EMBEDDER = head(Task.SENTENCE_EMBEDDING, "sentence_embedding", 2)
MASKS = head(Task.FILL_MASK, "logits", 7, 100)


class Letters:
    """One token per letter: enough of a preprocessor to tell texts apart."""

    max_length = 64

    def __call__(self, samples: Sequence[Sample], *, pad_to: int | None = None) -> dict[str, Array]:
        rows = [[ord(letter) for letter in sample.texts[0]] for sample in samples]
        width = max(map(len, rows))
        ids = np.array([row + [0] * (width - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}

    def costs(self, samples: Sequence[Sample]) -> list[int]:
        return [len(sample.texts[0]) for sample in samples]


def says_yes(feeds: Feeds) -> Outputs:
    """Logits by the first letter: y for yes."""
    first = feeds["input_ids"][:, 0] == ord("y")
    return {"logits": np.stack([~first, first], axis=1).astype(np.float32)}


def test_accuracy_counts_right_labels_in_any_batch_order(tmp_path: Path) -> None:
    lines = [f"{'yes' if i % 2 else 'no'}\t{'y' if i % 2 else 'n'}{'x' * (i % 7)}" for i in range(40)]
    wrong = ["yes\tnever"] * 10
    (tmp_path / "l.tsv").write_text("\n".join([*lines, *wrong]))
    metric = read_labelled(tmp_path / "l.tsv", CLASSIFIER)
    assert metric.metric.name == "accuracy"
    answers = metric.predictions(lambda many: map(says_yes, many), Letters())
    assert metric.result(answers, None, 0).value.value == pytest.approx(40 / 50)


REGRESSOR = head(Task.SEQUENCE_CLASSIFICATION, "logits", 1, problem=ProblemType.REGRESSION)
TAGGER = head(Task.SEQUENCE_CLASSIFICATION, "logits", 2, problem=ProblemType.MULTI_LABEL)
KINDS = [
    (EMBEDDER, lambda i: f"{i}\ta\tb", "score\tsentence1\tsentence2"),
    (REGRESSOR, lambda i: f"{i}\ta", "Rating\treview text"),
    (CLASSIFIER, lambda i: "yes\ta", "label\ttext"),
    (TAGGER, lambda i: "yes,no\ta", "labels\ttext_a\ttext_b"),
]


@pytest.mark.parametrize(("kind", "line", "header"), KINDS)
def test_a_header_consists_of_names(kind: Head, line: Any, header: str, tmp_path: Path) -> None:
    lines = [line(i) for i in range(20)]
    path = tmp_path / "l.tsv"
    log: list[str] = []
    path.write_text("\n".join([header, *lines]))
    assert len(read_labelled(path, kind, log.append).gold) == 20
    assert log == [f"line 1 of `{path}` was taken as a header: {', '.join(header.split(chr(9)))}"]
    path.write_text("\n".join(lines))
    assert len(read_labelled(path, kind, log.append).gold) == 20 and len(log) == 1


@pytest.mark.parametrize(("kind", "line", "header"), KINDS)
@pytest.mark.parametrize(
    "first", ["O.5\ta\tb", "score\tWhat is it?\tIt is.", "sentiment\ttext", "label", "label\t12"]
)
def test_any_other_first_line_is_data(kind: Head, line: Any, header: str, first: str, tmp_path: Path) -> None:
    (tmp_path / "l.tsv").write_text("\n".join([first, *(line(i) for i in range(20))]))
    with pytest.raises(DataError, match="line 1 of"):
        read_labelled(tmp_path / "l.tsv", kind)


def test_a_label_that_is_called_label_is_none_of_a_header(tmp_path: Path) -> None:
    path = tmp_path / "l.tsv"
    path.write_text("label\ttext\n" * 20)
    named = replace(CLASSIFIER, labels=("label", "other"))
    assert len(read_labelled(path, named).gold) == 20


def test_spearman_is_one_for_the_right_order_and_minus_one_for_the_opposite(tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_text("\n".join(f"{i}\ta\t{'b' * (i + 1)}" for i in range(25)))
    metric = read_labelled(tmp_path / "p.tsv", EMBEDDER)

    def embed(order: int) -> Run:
        """Second texts turn away from the first as they grow longer (order -1), or towards it (order 1)."""

        def run(feeds: Feeds) -> Outputs:
            away = feeds["attention_mask"].sum(axis=1) / 50
            angle = np.where(feeds["input_ids"][:, 0] == ord("a"), 0.0, away if order < 0 else 1 - away)
            return {"sentence_embedding": np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)}

        return run

    right, wrong = (metric.predictions(lambda many, s=s: map(embed(s), many), Letters()) for s in (1, -1))
    assert metric.result(right, None, 0).value.value == pytest.approx(100)
    assert metric.result(wrong, None, 0).value.value == pytest.approx(-100)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("maybe\ta text\n" * 30, "line 1"),
        ("yes\n" * 30, "line 1"),
        ("yes\ta\n" * 3, "at least 20"),
        ("\x00", "binary"),
    ],
)
def test_bad_lines(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "l.tsv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_labelled(tmp_path / "l.tsv", CLASSIFIER)


def test_a_missing_file_and_a_task_without_a_metric(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        read_labelled(tmp_path / "none", CLASSIFIER)
    with pytest.raises(UsageError, match="fill-mask"):
        read_labelled(tmp_path / "none", MASKS)


MULTI = head(Task.SEQUENCE_CLASSIFICATION, "logits", 2, problem=ProblemType.MULTI_LABEL)
SCORE = head(Task.SEQUENCE_CLASSIFICATION, "logits", 1)


def write(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("\n".join(lines))
    return path


def test_an_index_is_taken_for_a_label_and_a_name_comes_first(tmp_path: Path) -> None:
    read = read_labelled(write(tmp_path / "l", ["1\ta", "yes\tb", "0\tc", "no\td"] * 5), CLASSIFIER)
    assert read.gold.tolist() == [1, 1, 0, 0] * 5
    numbered = Head(CLASSIFIER.entry, CLASSIFIER.outputs, ("1", "0"))
    read = read_labelled(write(tmp_path / "n", ["1\ta", "0\tb"] * 10), numbered)
    assert read.gold.tolist() == [0, 1] * 10


@pytest.mark.parametrize("label", ["2", "-1", "1.0", "\u00b2", ""])
def test_an_index_beyond_the_labels_is_none(label: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1 .* expected a label"):
        read_labelled(write(tmp_path / "l", [f"{label}\ta text"] * 20), CLASSIFIER)


def test_micro_f1_of_any_number_of_labels(tmp_path: Path) -> None:
    lines = ["no,yes\tboth", "\tnone", "1\tsecond", "no\tfirst"] * 5
    read = read_labelled(write(tmp_path / "l", lines), MULTI)
    assert read.gold.tolist() == [[True, True], [False, False], [False, True], [True, False]] * 5
    assert read.result(read.gold, None, 0).value.value == 1
    # Of 20 labels one in four is missed: precision 1, recall 3 / 4.
    missed = read.gold.copy()
    missed[::4, 0] = False
    assert read.result(missed, None, 0).value.value == pytest.approx(2 * 0.75 / 1.75)


def test_the_rank_of_one_score(tmp_path: Path) -> None:
    read = read_labelled(write(tmp_path / "l", [f"{i}\tquestion\ttext {i}" for i in range(25)]), SCORE)
    order = read.metric.predict(np.arange(25)[:, None] ** 2)
    assert read.samples[3] == TextPair("question", "text 3")
    assert [read.result(sign * order, None, 0).value.value for sign in (1, -1)] == pytest.approx([100, -100])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("judged", "line"),
    [(CLASSIFIER, "no\t{text}"), (EMBEDDER, "{score}\t{text}\tb"), (SCORE, "{score}\t{text}")],
    ids=["label", "vectors", "score"],
)
def test_texts_that_a_model_answers_with_nan_are_no_answers(
    judged: Head, line: str, bad: float, tmp_path: Path
) -> None:
    """The largest of NaN logits is the first label, which may be right."""
    lines = [line.format(text="xy"[i % 2] * (i + 1), score=i) for i in range(40)]
    read = read_labelled(write(tmp_path / "l", lines), judged)
    width = judged.outputs[0].shape[-1]

    def run(feeds: Feeds) -> Outputs:
        ids = feeds["input_ids"][:, :1].astype(np.float32)
        return {read.output: np.tile(np.where(ids == ord("y"), bad, ids), (1, int(width)))}

    with pytest.raises(ModelError, match=f"NaN or infinite for 20 of {len(read.samples)} labelled texts"):
        read.predictions(lambda many: map(run, many), Letters())


@pytest.mark.parametrize(
    ("task", "output", "error"),
    [
        (Task.TOKEN_CLASSIFICATION, "logits", UsageError),
        (Task.QUESTION_ANSWERING, "start_logits", UsageError),
        (Task.FEATURE_EXTRACTION, "last_hidden_state", UnsupportedError),
    ],
)
def test_kinds_without_a_labelled_metric_say_why(
    task: Task, output: str, error: type[EdgeqError], tmp_path: Path
) -> None:
    with pytest.raises(error, match="label"):
        read_labelled(tmp_path / "none", head(task, output, 7, 2))


def lost(wrong: int, count: int) -> LabelledResult:
    """Of an original that is always right."""
    gold = np.zeros(count, np.int64)
    answers = gold.copy()
    answers[:wrong] = 1
    metric = CLASSIFIER.entry.labelled
    assert metric is not None
    return Labelled(metric, "logits", ("x",) * count, gold).result(answers, gold, 0)


@pytest.mark.parametrize(
    ("wrong", "count", "verdict"),
    [
        (0, 100, "passed"),
        (8, 1000, "passed"),  # certain, but below a point
        (2, 100, "passed"),  # two points that chance can make
        (30, 1000, "failed"),
        (12, 100, "failed"),
        (12, 20, "failed"),  # so large that a few lines are enough
        (2, 20, "undecided"),  # ten points that chance can make
        (2, 60, "undecided"),
        (0, 60, "passed"),
        (0, 59, "undecided"),  # no loss, but so few lines cannot show a twentieth
    ],
)
def test_a_loss_fails_where_it_is_certain_and_material(wrong: int, count: int, verdict: str) -> None:
    found = lost(wrong, count)
    gate = found.gate("v", "logits")
    assert found.verdict == verdict == found.to_json()["verdict"]
    assert (found.undecided is not None) is (gate is None) is (verdict == "undecided")
    if gate is not None:
        assert gate.passed is (verdict == "passed") and gate.metric == "accuracy_drop"
        assert gate.value == pytest.approx(100 * wrong / count)


def test_without_an_original_there_is_no_verdict_but_an_interval() -> None:
    found = lost(12, 100)
    alone = LabelledResult("accuracy", found.value)
    assert alone.gate("v", "logits") is None
    assert set(alone.metrics()) == {"accuracy", "accuracy_low", "accuracy_high"}
    assert alone.value.low < 0.88 < alone.value.high
