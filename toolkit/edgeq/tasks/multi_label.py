"""Any number of labels at once: an independent sigmoid for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeq.bundle.manifest import PostprocessKind
from edgeq.tasks.comparison import Rows
from edgeq.tasks.entry import Floor, Kind, TaskEntry
from edgeq.tasks.labelled import LabelledMetric, Notify, Samples, label_index, labels_hint, read_samples
from edgeq.tasks.measures import Decisions
from edgeq.tasks.noise import growing_with_noise
from edgeq.tasks.steps import steps
from edgeq.types import Array

FORM = "labels by commas (or none) and one or two texts"
FLOORS = (
    Floor("probability_error_mean", growing_with_noise(0.14)),
    Floor("probability_error_p99", growing_with_noise(0.35)),
)
"""Static int8 costs 0.033 and 0.083 where logits have a deviation of 4, stock dynamic int8 0.17 and 0.40."""


def _read(path: Path, labels: Sequence[str], width: int, notify: Notify) -> Samples:
    def marked(cell: str) -> Array:
        row = np.zeros(width, bool)
        row[[label_index(name, labels, width) for name in cell.split(",") if name.strip()]] = True
        return row

    samples, gold = read_samples(path, marked, FORM, labels_hint(labels, width), notify)
    return tuple(samples), np.array(gold, bool)


def _decided(rows: Array) -> Array:
    decided: Array = rows > 0
    return decided


def _micro_f1(predictions: Array, gold: Array) -> float:
    """Over all labels of all samples; 1 where there is nothing to find and nothing was found."""
    wanted = int(predictions.sum()) + int(gold.sum())
    return 2 * int((predictions & gold).sum()) / wanted if wanted else 1.0


MULTI_LABEL = TaskEntry(
    kind=Kind.MULTI_LABEL,
    does="Gives a text any number of labels, each by itself",
    metrics=(
        "decision_agreement",
        "label_agreement_min",
        "probability_error_mean",
        "probability_error_p99",
        "sqnr_db",
        "max_abs",
    ),
    floors=FLOORS,
    kept=("probability_error_mean",),
    derived=(),
    compare=lambda head: Rows(head, Decisions),
    postprocess=steps(PostprocessKind.SIGMOID),
    has_labels=True,
    labelled=LabelledMetric("micro_f1", FORM, 100.0, _read, _decided, _micro_f1),
)
