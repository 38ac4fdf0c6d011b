"""Labelled data: one line per sample, by tabs, and the metric that scores a model's answers to them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from edgeq.calibration.lines import read_lines
from edgeq.errors import DataError
from edgeq.metrics import spearman
from edgeq.samples import Sample, Text, TextPair
from edgeq.types import Array

MIN_LABELLED = 20


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt and what may come after it.

    Attributes:
        prompt: is followed by a space.
        choices: two or more.
    """

    prompt: str
    choices: tuple[str, ...]


Samples: TypeAlias = tuple[tuple[Sample | Question, ...], Array]
"""Samples, and the gold value of each (or of each pair)."""
Cell: TypeAlias = Callable[[str], object]
"""Reads the first cell of a line; raises ValueError where it cannot."""
Notify: TypeAlias = Callable[[str], None]
"""Receives notices."""

_GOLD_NAME = re.compile(
    r"class(es)?|gold|(gold_)?(label|score)|labels|label_id|rating|relevance|similarity(_score)?|target",
    re.IGNORECASE,
)
"""What a header calls the first column; any other first line is data, so that a mistyped one is not lost."""
_COLUMN_NAME = re.compile(r"[^\W\d][\w.-]*( [\w.-]+)?")


@dataclass(frozen=True, slots=True)
class LabelledMetric:
    """How labelled data are read and scored.

    Attributes:
        name: of the metric.
        form: of a line, for people.
        to_points: what its value is multiplied with to be points of a hundred.
        read: a file, the head's labels and its width, into samples and gold values; the last is told of a line that
            was taken as a header.
        predict: output rows in the order of the samples into one prediction per gold value.
        score: predictions and gold values into the metric.
    """

    name: str
    form: str
    to_points: float
    read: Callable[[Path, Sequence[str], int, Notify], Samples]
    predict: Callable[[Array], Array]
    score: Callable[[Array, Array], float]


@dataclass(frozen=True, slots=True)
class LabelledPairs:
    """Pairs of texts with a gold score each."""

    scores: tuple[float, ...]
    pairs: tuple[tuple[str, str], ...]

    def part(self, indices: Sequence[int]) -> LabelledPairs:
        """Some of them."""
        return LabelledPairs(tuple(self.scores[i] for i in indices), tuple(self.pairs[i] for i in indices))


def ignore(_: str) -> None:
    """Drop a notice."""


def read_pairs(path: Path, notify: Notify = ignore) -> LabelledPairs:
    """Read `score <tab> text <tab> text` lines; a header as in `without_header` is left out.

    Raises:
        DataError: the file cannot be read, a line has fewer columns or no number, or there are too few pairs.
    """
    rows = without_header(path, read_cells(path), number_in, notify)
    for number, cells in rows:
        if len(cells) < 3 or not is_number(cells[0]):
            raise DataError(
                f"line {number} of `{path}` is {cells[:3]!r}; expected score, text, text by tabs",
                hint=HEADER_HINT if number == rows[0][0] else None,
            )
    if len(rows) < MIN_LABELLED:
        raise DataError(f"`{path}` has {len(rows)} labelled pairs; at least {MIN_LABELLED} are needed")
    scores = tuple(float(cells[0]) for _, cells in rows)
    require_varied(path, scores)
    return LabelledPairs(scores, tuple((cells[1], cells[2]) for _, cells in rows))


def read_samples(
    path: Path, cell: Cell, form: str, hint: str | None = None, notify: Notify = ignore
) -> tuple[list[Sample], list[object]]:
    """Read `gold <tab> text` lines, with a second text where the model takes pairs; a header is left out.

    Args:
        path: the file.
        cell: reads the gold value.
        form: of a line, for the error.
        hint: of the error.
        notify: told that a line was taken as a header.

    Raises:
        DataError: the file cannot be read, a line is of another form, or there are too few.
    """
    samples: list[Sample] = []
    gold: list[object] = []
    for number, (first, *texts) in without_header(path, read_cells(path), cell, notify):
        try:
            value = cell(first)
        except ValueError:
            value = None
        if value is None or not 1 <= len(texts) <= 2:
            shown = "\t".join([first, *texts])[:60]
            raise DataError(f"line {number} of `{path}` is {shown!r}; expected {form}, by tabs", hint=hint)
        samples.append(Text(*texts) if len(texts) == 1 else TextPair(*texts))
        gold.append(value)
    if len(samples) < MIN_LABELLED:
        raise DataError(f"`{path}` has {len(samples)} labelled texts; at least {MIN_LABELLED} are needed")
    return samples, gold


def read_cells(path: Path) -> list[tuple[int, list[str]]]:
    """Number and cells of every line that is not empty.

    Raises:
        DataError: the file cannot be read.
    """
    rows = ((number, part) for number, line in read_lines(path) for part in line.rstrip("\r\n").split("\r"))
    return [(number, line.split("\t")) for number, line in rows if line.strip()]


HEADER_HINT = "a header is a first line of names, such as: score, text1, text2"


def without_header(
    path: Path, rows: list[tuple[int, list[str]]], cell: Cell, notify: Notify
) -> list[tuple[int, list[str]]]:
    """The lines but a first one of names: that of a gold value, then names of columns.

    The same for every kind of model. A label that is called so is a label: `cell` reads it.
    """
    if not rows or not _is_header(rows[0][1], cell):
        return rows
    number, cells = rows[0]
    notify(f"line {number} of `{path}` was taken as a header: {', '.join(cells)}")
    return rows[1:]


def _is_header(cells: Sequence[str], cell: Cell) -> bool:
    first, *texts = (text.strip() for text in cells)
    if not _GOLD_NAME.fullmatch(first) or not texts or not all(map(_COLUMN_NAME.fullmatch, texts)):
        return False
    try:
        cell(first)
    except ValueError:
        return True
    return False


def number_in(text: str) -> float:
    """The finite number that a cell holds.

    Raises:
        ValueError: it holds none.
    """
    if not is_number(text):
        raise ValueError(text)
    return float(text)


def is_number(text: str) -> bool:
    """Whether a cell holds a finite number."""
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def require_varied(path: Path, scores: Sequence[float]) -> None:
    """Raise DataError where all gold scores are equal."""
    if len(set(scores)) == 1:
        raise DataError(
            f"every pair of `{path}` has the score {scores[0]:g}; a rank correlation needs different ones"
        )


def label_index(text: str, labels: Sequence[str], width: int) -> int:
    """The index a cell names, by label or by number; a label that is itself a number is a label first.

    Raises:
        ValueError: it is neither.
    """
    name = text.strip()
    if name in labels:
        return labels.index(name)
    if name.isascii() and name.isdigit() and int(name) < width:
        return int(name)
    raise ValueError(name)


def labels_hint(labels: Sequence[str], width: int) -> str:
    """What a label cell may say."""
    return f"labels: {', '.join(labels) or 'none are named'}, or their indexes 0 to {width - 1}"


def rank_points(predictions: Array, gold: Array) -> float:
    """Spearman's rank correlation x 100; 0 where either side is all equal, as in a small resample."""
    if gold.min() == gold.max() or predictions.min() == predictions.max():
        return 0.0
    return 100 * spearman(predictions, gold)
