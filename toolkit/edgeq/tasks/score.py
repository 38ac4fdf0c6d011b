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
from edgeq.tasks.labelled import LabelledMetric, Samples, is_number, rank_points, read_samples, require_varied
from edgeq.tasks.measures import Scores
from edgeq.tasks.steps import steps
from edgeq.types import Array, Precision

FORM = "a number and one or two texts"
FLOORS = (
    Floor(
        "score_error_mean",
        {Precision.FP32: 1e-3, Precision.FP16: 1e-2, Precision.INT8: 0.2, Precision.INT4: 0.3},
    ),
    Floor(
        "score_error_p99",
        {Precision.FP32: 5e-3, Precision.FP16: 5e-2, Precision.INT8: 0.7, Precision.INT4: 1.0},
    ),
    Floor(
        "rank_correlation",
        {Precision.FP32: 0.9999, Precision.FP16: 0.999, Precision.INT8: 0.97, Precision.INT4: 0.93},
    ),
)


def _read(path: Path, _labels: Sequence[str], width: int) -> Samples:
    if width != 1:
        raise UnsupportedError(
            f"labelled data are read for one score; this model gives {width} numbers for a text"
        )

    def number(cell: str) -> float:
        if not is_number(cell):
            raise ValueError(cell)
        return float(cell)

    samples, gold = read_samples(path, number, FORM)
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
    labelled=LabelledMetric("spearman", FORM, 1.0, _read, _scores, rank_points),
)
