"""Numbers that order or measure: rerankers with one logit, regressions.

One number has no direction and no softmax: its cosine is its sign, its probability is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeq.bundle.manifest import PostprocessKind
from edgeq.errors import UnsupportedError
from edgeq.tasks.comparison import Rows
from edgeq.tasks.entry import Floor, Kind, TaskEntry
from edgeq.tasks.labelled import (
    LabelledMetric,
    Notify,
    Samples,
    number_in,
    rank_points,
    read_samples,
    require_varied,
)
from edgeq.tasks.measures import Scores
from edgeq.tasks.noise import growing_with_its_square, growing_with_noise, one_minus
from edgeq.tasks.steps import steps
from edgeq.types import Array

FORM = "a number and one or two texts"
FLOORS = (
    Floor("score_error_mean", growing_with_noise(0.12)),
    Floor("score_error_p99", growing_with_noise(0.45)),
    Floor("rank_correlation", one_minus(growing_with_its_square(0.03))),
)
"""Static int8 costs 0.029, 0.11 and a correlation of 0.0017; stock dynamic int8 0.16, 0.58 and 0.036."""


def _read(path: Path, _labels: Sequence[str], width: int, notify: Notify) -> Samples:
    if width != 1:
        raise UnsupportedError(
            f"labelled data are read for one score; this model gives {width} numbers for a text"
        )

    samples, gold = read_samples(path, number_in, FORM, notify=notify)
    scores = np.array(gold, np.float64)
    require_varied(path, scores.tolist())
    return tuple(samples), scores


def _scores(rows: Array) -> Array:
    column: Array = rows[:, 0]
    return column


SCORE = TaskEntry(
    kind=Kind.SCORE,
    does="Gives a text, or a pair of texts, a score",
    metrics=(
        "score_error_mean",
        "score_error_p99",
        "score_error_max",
        "rank_correlation",
        "sqnr_db",
        "max_abs",
    ),
    floors=FLOORS,
    kept=("score_error_mean",),
    derived=(),
    compare=lambda head: Rows(head, Scores),
    postprocess=steps(PostprocessKind.SCORE),
    example='--text "returning a parcel" --pair "How do I send it back?"',
    has_labels=True,
    labelled=LabelledMetric("spearman", FORM, 1.0, _read, _scores, rank_points),
)
