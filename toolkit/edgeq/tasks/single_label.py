"""One label out of several: softmax."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeq.bundle.manifest import PostprocessKind
from edgeq.tasks.comparison import Rows
from edgeq.tasks.distributions import DISTRIBUTION_FLOORS, DISTRIBUTION_METRICS
from edgeq.tasks.entry import Kind, TaskEntry
from edgeq.tasks.labelled import LabelledMetric, Notify, Samples, label_index, labels_hint, read_samples
from edgeq.tasks.measures import Distributions
from edgeq.tasks.steps import steps
from edgeq.types import Array

FORM = "a label and one or two texts"


def _read(path: Path, labels: Sequence[str], width: int, notify: Notify) -> Samples:
    samples, gold = read_samples(
        path, lambda cell: label_index(cell, labels, width), FORM, labels_hint(labels, width), notify
    )
    return tuple(samples), np.array(gold, np.int64)


def _choices(rows: Array) -> Array:
    chosen: Array = rows.argmax(axis=1)
    return chosen


def _accuracy(predictions: Array, gold: Array) -> float:
    return float(np.mean(predictions == gold))


SINGLE_LABEL = TaskEntry(
    kind=Kind.SINGLE_LABEL,
    does="Gives a text one label out of several",
    metrics=DISTRIBUTION_METRICS,
    floors=DISTRIBUTION_FLOORS,
    kept=("cosine_mean", "kl_mean"),
    derived=("cosine_mean", "cosine_min"),
    compare=lambda head: Rows(head, Distributions),
    postprocess=steps(PostprocessKind.SOFTMAX, PostprocessKind.ARGMAX_LABEL),
    has_labels=True,
    labelled=LabelledMetric("accuracy", FORM, 100.0, _read, _choices, _accuracy),
)
