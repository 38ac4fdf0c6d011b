"""Multiple choice: which of some continuations a language model finds likeliest for its length.

As lm-evaluation-harness scores it (`acc_norm`): the log-likelihood of each choice behind the prompt and a space, over
the characters of the choice, so that a long answer is not at a disadvantage.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeq.errors import DataError
from edgeq.tasks.labelled import (
    MIN_LABELLED,
    LabelledMetric,
    Notify,
    Question,
    Samples,
    read_cells,
    without_header,
)
from edgeq.types import Array

FORM = "the right choice (its text or its index from 0), a prompt and two choices or more"


def _read(path: Path, labels: Sequence[str], width: int, notify: Notify) -> Samples:
    """Questions, and the index of the right choice of each.

    Raises:
        DataError: the file cannot be read, a line is of another form, or there are too few.
    """
    questions, gold = [], []
    for number, (first, *texts) in without_header(path, read_cells(path), _index, notify):
        prompt, *choices = (text.strip() for text in texts) if texts else ("",)
        answer = _answer(first, choices)
        if answer is None or not prompt or len(choices) < 2 or not all(choices):
            shown = "\t".join([first, *texts])[:60]
            raise DataError(f"line {number} of `{path}` is {shown!r}; expected {FORM}, by tabs")
        questions.append(Question(prompt, tuple(choices)))
        gold.append(answer)
    if len(questions) < MIN_LABELLED:
        raise DataError(f"`{path}` has {len(questions)} questions; at least {MIN_LABELLED} are needed")
    return tuple(questions), np.array(gold, np.int64)


def _index(text: str) -> int:
    """Reads an index where a header may be.

    Raises:
        ValueError: it is none.
    """
    return int(text)


def _answer(text: str, choices: Sequence[str]) -> int | None:
    """The index a cell names; a choice that is itself a number is a text first."""
    name = text.strip()
    if name in choices:
        return choices.index(name)
    is_index = name.isascii() and name.isdigit() and int(name) < len(choices)
    return int(name) if is_index else None


def _chosen(rows: Array) -> Array:
    """The likeliest of each row; choices that a question lacks are -inf."""
    chosen: Array = rows.argmax(axis=1)
    return chosen


def _accuracy(predictions: Array, gold: Array) -> float:
    return float(np.mean(predictions == gold))


CHOICES = LabelledMetric("acc_norm", FORM, 100.0, _read, _chosen, _accuracy)
