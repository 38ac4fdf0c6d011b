"""Multiple choice: what is read, and that a choice is scored by its likelihood over its length."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeq.errors import DataError, ModelError
from edgeq.exporters.causal_lm import ExportedLanguageModel, load_language_model
from edgeq.pipeline.generation.labels import Questions, read_questions
from edgeq.processors.prompts import PromptTokenizer
from edgeq.tasks import TASKS, Head, Kind
from edgeq.tasks.labelled import Question
from edgeq.types import Array, FloatArray

HEAD = Head(TASKS[Kind.NEXT_TOKEN], ())
VOCABULARY = 288
LINES = ["a dog\tI saw\ta cat\ta dog", "0\tShe said\tyes\tno\tperhaps"] * 10


class _Letters(PromptTokenizer):
    """A byte is a token."""

    def __init__(self) -> None:
        pass

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [256, *text.encode()]

    def require_embeddings(self, ids: object, rows: int, what: str) -> None:
        pass


def read(path: Path, lines: list[str], context: int = 64) -> Questions:
    path.write_text("\n".join(lines), encoding="utf-8")
    return read_questions(path, HEAD, _Letters(), context, VOCABULARY)


def prefers(letter: str) -> Callable[[Array], FloatArray]:
    """A model to which one letter is twice as likely as any other."""
    row = np.zeros(VOCABULARY, np.float32)
    row[ord(letter)] = math.log(2)
    return lambda ids: np.tile(row, (len(ids), 1))


def test_questions_are_read_by_text_or_index(tmp_path: Path) -> None:
    found = read(tmp_path / "q.tsv", ["label\tprompt\tfirst\tsecond", *LINES])
    assert found.samples[:2] == (
        Question("I saw", ("a cat", "a dog")),
        Question("She said", ("yes", "no", "perhaps")),
    )
    assert found.gold[:2].tolist() == [1, 0] and len(found.gold) == 20


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2\tI saw\ta cat\ta dog", "expected the right choice"),
        ("a bird\tI saw\ta cat\ta dog", "expected the right choice"),
        ("0\tI saw\ta cat", "expected the right choice"),
        ("0\tI saw\ta cat\t", "expected the right choice"),
        ("0\t\ta cat\ta dog", "expected the right choice"),
        ("0", "expected the right choice"),
        ("0\tI saw\ta cat\t" + "a dog " * 20, "tokens; the model takes 64"),
    ],
)
def test_lines_that_are_no_question_are_refused(line: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path / "q.tsv", [*LINES, line])


def test_too_few_questions_say_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 19 questions; at least 20"):
        read(tmp_path / "q.tsv", LINES[:19])


def test_the_likeliest_for_its_length_is_chosen(tmp_path: Path) -> None:
    # Fewer tokens are likelier as a whole; over its characters, of which the space is none, the long one is.
    found = read(tmp_path / "q.tsv", ["x\tI saw\tx\txabcdefgh", "xabcdefgh\tI saw\tx\txabcdefgh"] * 10)
    answers = found.predictions(prefers("x"))
    assert answers.tolist() == [1] * 20
    assert all(
        short.log_likelihood(prefers("x")) > long.log_likelihood(prefers("x")) for short, long in found.tokens
    )
    result = found.result(answers, found.gold, 0)
    assert (result.name, result.value.value) == ("acc_norm", 0.5)
    assert result.drop is not None and result.drop.value == 50


def test_a_choice_is_scored_as_the_model_reads_it(tiny_decoder: Callable[..., Path], tmp_path: Path) -> None:
    """Against likelihoods taken token by token from the original."""
    model: ExportedLanguageModel = load_language_model(str(tiny_decoder("llama", tie_word_embeddings=True)))
    tokenizer = PromptTokenizer(model.preprocessor.tokenizer_json)
    (tmp_path / "q.tsv").write_text("\n".join(LINES), encoding="utf-8")
    found = read_questions(tmp_path / "q.tsv", HEAD, tokenizer, 128, VOCABULARY)
    likelihoods = [part.log_likelihood(lambda ids: model.reference(ids[None])[0]) for part in found.tokens[0]]
    for likelihood, choice in zip(likelihoods, found.samples[0].choices, strict=True):
        ids = tokenizer.encode("I saw")
        total = 0.0
        for token in tokenizer.encode(" " + choice, add_special_tokens=False):
            row = model.reference(np.array([ids]))[0, -1].astype(np.float64)
            total += row[token] - np.logaddexp.reduce(row)
            ids.append(token)
        assert likelihood == pytest.approx(total, rel=1e-4)


def test_likelihoods_that_are_no_numbers_are_no_answer(tmp_path: Path) -> None:
    found = read(tmp_path / "q.tsv", LINES)
    with pytest.raises(ModelError, match="likelihoods of 20 of 20 questions"):
        found.predictions(lambda ids: np.full((len(ids), VOCABULARY), np.nan, np.float32))
