"""The form of an entry of the table, and of the head of one model of its kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeAlias

from edgeq.bundle.manifest import PostprocessStep
from edgeq.metrics import LOWER_IS_BETTER, OutputComparison, has_choices
from edgeq.samples import Sample
from edgeq.tasks.compared import TaskComparison
from edgeq.tasks.labelled import LabelledMetric
from edgeq.types import Array, Outputs, Precision, Role, TensorSpec


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


class Mode(StrEnum):
    """How a model's graphs are run to an answer."""

    FORWARD = "forward"
    """Once: inputs to outputs."""
    AUTOREGRESSIVE = "autoregressive"
    """Token by token, with a cache from step to step."""


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


class Vocabulary(Protocol):
    """What is asked of a tokenizer to put samples in a kind's form."""

    @property
    def special_token_ids(self) -> Mapping[str, int]:
        """Token id by role, such as `mask_token`."""

    def id_to_token(self, token_id: int) -> str:
        """The text of a token."""

    def tokens(self, sample: Sample) -> Sequence[str]:
        """The texts of a sample's tokens."""


Arrange: TypeAlias = Callable[[Sequence[Sample], Vocabulary], tuple[Sample, ...]]
"""Samples in the form that a kind of model reads, of samples in any."""


def as_they_are(samples: Sequence[Sample], _vocabulary: Vocabulary) -> tuple[Sample, ...]:
    """What takes any text takes them all."""
    return tuple(samples)


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
        mode: how its graphs are run.
        rows: what a held-out row is, for people.
        arrange: puts texts in the form that it reads.
        example: options of `edgeq run` with an input that it has an answer to; `{mask}` stands for the mask token.
        compares_texts: its answer is how close two texts are.
        has_labels: its answers are called by the labels of the source.
        judged: roles of the outputs that are compared; empty for all.
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
    mode: Mode = Mode.FORWARD
    rows: str = "texts"
    arrange: Arrange = as_they_are
    example: str = '--text "How do I return a parcel?"'
    compares_texts: bool = False
    has_labels: bool = False
    judged: tuple[Role, ...] = ()

    @property
    def is_autoregressive(self) -> bool:
        """Whether it writes token by token."""
        return self.mode is Mode.AUTOREGRESSIVE

    def outputs(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        """Those of a model's outputs that are compared."""
        return tuple(spec for spec in specs if not self.judged or spec.role in self.judged)

    @property
    def has_cosine(self) -> bool:
        """Whether the direction of an output row means anything."""
        return "cosine_mean" in self.metrics

    @property
    def has_softmax(self) -> bool:
        """Whether the logits of an output row are read by one softmax."""
        return "kl_mean" in self.metrics


COMPARED_VALUES = 1 << 20
"""Logits of a language model compared at once: 8 MB in each of the float64 arrays that metrics make."""


@dataclass(frozen=True, slots=True)
class Head:
    """One model's.

    Attributes:
        entry: of its kind.
        outputs: their specs.
        labels: by index; empty where the model names none.
        mask_id: id of the mask token; None without one.
    """

    entry: TaskEntry
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...] = ()
    mask_id: int | None = None

    def compare(self) -> TaskComparison:
        """An empty comparison of all outputs."""
        return self.entry.compare(self)

    def compare_each(self) -> list[OutputComparison]:
        """An empty comparison of each output by itself, in general terms."""
        return [OutputComparison(spec, self.entry.has_softmax) for spec in self.outputs]

    def compare_batch(
        self,
        comparisons: Sequence[OutputComparison],
        expected: Outputs,
        found: Outputs,
        mask: Array | None,
    ) -> None:
        """Add one batch to what `compare_each` gave.

        Args:
            comparisons: of the outputs, in their order.
            expected: of the original.
            found: of the other.
            mask: `[batch, sequence]`, nonzero at real tokens; None where nothing is padded.
        """
        for comparison in comparisons:
            name = comparison.spec.name
            for part in self._parts(expected[name]):
                kept = None if mask is None else mask[:, part]
                comparison.add(expected[name][:, part], found[name][:, part], kept)

    def _parts(self, output: Array) -> Iterator[slice]:
        """Positions compared at once: all, but of a vocabulary's logits so many as float64 arrays are small of."""
        if not self.entry.is_autoregressive:
            yield slice(None)
            return
        step = max(1, COMPARED_VALUES // (output.shape[0] * output.shape[2]))
        yield from (slice(start, start + step) for start in range(0, output.shape[1], step))

    @property
    def has_choices(self) -> bool:
        """Whether an output's rows choose one of several."""
        return self.entry.has_softmax and any(has_choices(spec) for spec in self.outputs)

    def has_direction(self, spec: TensorSpec) -> bool:
        """Whether the cosine of an output's rows means anything: of a single number it is the sign."""
        return self.entry.has_cosine and spec.shape[-1] != 1
