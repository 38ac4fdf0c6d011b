"""Vectors of texts or tokens: what counts is their direction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeq.metrics import VECTOR_METRICS, cosines
from edgeq.samples import Text
from edgeq.tasks.comparison import Rows
from edgeq.tasks.entry import Floor, Kind, TaskEntry
from edgeq.tasks.labelled import LabelledMetric, Notify, Samples, rank_points, read_pairs
from edgeq.tasks.noise import MEAN_COSINE, TAIL, one_minus
from edgeq.tasks.steps import no_steps
from edgeq.types import Array

FLOORS = (
    Floor("cosine_mean", MEAN_COSINE),
    Floor("cosine_p01", one_minus({p: TAIL * (1 - mean) for p, mean in MEAN_COSINE.items()})),
)
"""`edgeq.tasks.noise` says why."""


def _read(path: Path, _labels: Sequence[str], _width: int, notify: Notify) -> Samples:
    """All first texts, then all second ones."""
    pairs = read_pairs(path, notify)
    texts = [first for first, _ in pairs.pairs] + [second for _, second in pairs.pairs]
    return tuple(map(Text, texts)), np.asarray(pairs.scores)


def _similarities(rows: Array) -> Array:
    half = len(rows) // 2
    return cosines(rows[:half], rows[half:])


SPEARMAN = LabelledMetric("spearman", "score, text, text", 1.0, _read, _similarities, rank_points)

TOKEN_VECTORS = TaskEntry(
    kind=Kind.EMBEDDING,
    does="Turns a text into one vector per token",
    metrics=VECTOR_METRICS,
    floors=FLOORS,
    kept=("cosine_mean",),
    derived=("cosine_mean", "cosine_min"),
    compare=Rows,
    postprocess=no_steps,
    labelled=SPEARMAN,
)

EMBEDDING = replace(
    TOKEN_VECTORS, does="Turns a text into one vector; close meanings give close vectors", compares_texts=True
)
