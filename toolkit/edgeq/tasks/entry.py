"""The form of an entry of the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from edgeq.bundle.manifest import PostprocessStep
from edgeq.metrics import LOWER_IS_BETTER
from edgeq.types import Precision, TensorSpec

if TYPE_CHECKING:
    from edgeq.tasks.comparison import TaskComparison
    from edgeq.tasks.head import Head
    from edgeq.tasks.labelled import LabelledMetric


class Kind(StrEnum):
    """What the numbers of a model's head mean; a task may have several."""

    EMBEDDING = "embedding"
    SINGLE_LABEL = "single-label classification"
    MULTI_LABEL = "multi-label classification"
    SCORE = "score"
    TOKEN_CLASSIFICATION = "token classification"
    QUESTION_ANSWERING = "question answering"
    FILL_MASK = "fill-mask"
    NEXT_TOKEN = "next token"


@dataclass(frozen=True, slots=True)
class Floor:
    """What a metric must be for a bundle to pass where the user names no gate; an upper bound for errors."""

    metric: str
    thresholds: Mapping[Precision, float]

    @property
    def op(self) -> str:
        """`<=` for errors, `>=` for the others."""
        return "<=" if self.metric in LOWER_IS_BETTER else ">="


Steps: TypeAlias = Callable[[Sequence[TensorSpec]], tuple[PostprocessStep, ...]]
"""Steps from a model's outputs to its answers."""


@dataclass(frozen=True, slots=True)
class TaskEntry:
    """All that differs from kind to kind.

    Attributes:
        kind: of model.
        does: what it gives, for people.
        metrics: those its outputs have, in the order in which they are shown.
        floors: of the mean and of the tail, both of which must hold.
        kept: metrics against the original that golden cases are held to.
        derived: metrics that also get a gate from what was measured.
        compare: an empty comparison.
        postprocess: its steps.
        labelled: the metric of labelled data, None where `no_labels` says why there is none.
        no_labels: says why.
    """

    kind: Kind
    does: str
    metrics: tuple[str, ...]
    floors: tuple[Floor, ...]
    kept: tuple[str, ...]
    derived: tuple[str, ...]
    compare: Callable[[Head], TaskComparison]
    postprocess: Steps
    labelled: LabelledMetric | None = None
    no_labels: str = ""

    @property
    def has_cosine(self) -> bool:
        """Whether the direction of an output row means anything."""
        return "cosine_mean" in self.metrics

    @property
    def has_softmax(self) -> bool:
        """Whether the logits of an output row are read by one softmax."""
        return "kl_mean" in self.metrics
