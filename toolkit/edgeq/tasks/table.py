"""The table of kinds, and how a model's kind is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgeq.bundle.manifest import PostprocessKind, PostprocessStep
from edgeq.errors import UnsupportedError
from edgeq.metrics import KNOWN_METRICS
from edgeq.tasks.embedding import EMBEDDING
from edgeq.tasks.entry import Kind, TaskEntry
from edgeq.tasks.fill_mask import FILL_MASK
from edgeq.tasks.head import Head
from edgeq.tasks.multi_label import MULTI_LABEL
from edgeq.tasks.question_answering import QUESTION_ANSWERING
from edgeq.tasks.score import SCORE
from edgeq.tasks.single_label import SINGLE_LABEL
from edgeq.tasks.token_classification import TOKEN_CLASSIFICATION
from edgeq.types import ProblemType, Role, SourceInfo, Task, TensorSpec

TASKS: Mapping[Kind, TaskEntry] = {
    Kind.EMBEDDING: EMBEDDING,
    Kind.SINGLE_LABEL: SINGLE_LABEL,
    Kind.MULTI_LABEL: MULTI_LABEL,
    Kind.SCORE: SCORE,
    Kind.TOKEN_CLASSIFICATION: TOKEN_CLASSIFICATION,
    Kind.QUESTION_ANSWERING: QUESTION_ANSWERING,
    Kind.FILL_MASK: FILL_MASK,
}
LABELLED_METRICS = frozenset(entry.labelled.name for entry in TASKS.values() if entry.labelled is not None)
"""What labelled data are scored by; a bundle that promises one is judged where such data are given."""
KINDS: Mapping[Task, tuple[Kind, ...]] = {
    Task.FEATURE_EXTRACTION: (Kind.EMBEDDING,),
    Task.SENTENCE_EMBEDDING: (Kind.EMBEDDING,),
    Task.SEQUENCE_CLASSIFICATION: (Kind.SINGLE_LABEL, Kind.MULTI_LABEL, Kind.SCORE),
    Task.TOKEN_CLASSIFICATION: (Kind.TOKEN_CLASSIFICATION,),
    Task.QUESTION_ANSWERING: (Kind.QUESTION_ANSWERING,),
    Task.FILL_MASK: (Kind.FILL_MASK,),
}
"""Kinds that a task's models may have; the first unless the head says otherwise. Language models have their own."""
PROBLEMS: Mapping[ProblemType, Kind] = {
    ProblemType.SINGLE_LABEL: Kind.SINGLE_LABEL,
    ProblemType.MULTI_LABEL: Kind.MULTI_LABEL,
    ProblemType.REGRESSION: Kind.SCORE,
}


def head_of(
    source: SourceInfo,
    outputs: Sequence[TensorSpec],
    special_ids: Mapping[str, int] | None = None,
    steps: Sequence[PostprocessStep] = (),
) -> Head:
    """The head of a model.

    Args:
        source: its task, labels and problem type.
        outputs: its specs.
        special_ids: token id by role, of its tokenizer.
        steps: of its bundle, where there is one: those of format 1.0 name no problem type.

    Raises:
        UnsupportedError: a language model, whose steps are judged elsewhere.
    """
    mask_id = (special_ids or {}).get("mask_token")
    return Head(TASKS[_kind(_with_problem(source, steps), outputs)], tuple(outputs), source.labels, mask_id)


def _with_problem(source: SourceInfo, steps: Sequence[PostprocessStep]) -> SourceInfo:
    """A sigmoid for each label is what only several labels at once are read with."""
    has_sigmoid = any(step.step is PostprocessKind.SIGMOID for step in steps)
    if source.problem_type is not None or not has_sigmoid:
        return source
    return replace(source, problem_type=ProblemType.MULTI_LABEL)


def _kind(source: SourceInfo, outputs: Sequence[TensorSpec]) -> Kind:
    if source.task not in KINDS:
        raise UnsupportedError(f"a {source.task} model has no head that single outputs are judged by")
    kinds = KINDS[source.task]
    if len(kinds) == 1:
        return kinds[0]
    width = next((spec.shape[-1] for spec in outputs if spec.role is Role.LOGITS), None)
    if width == 1 and source.problem_type is not ProblemType.MULTI_LABEL:
        return Kind.SCORE  # Whatever the config says: there is nothing to choose from.
    return kinds[0] if source.problem_type is None else PROBLEMS[source.problem_type]


def possible_metrics(task: Task | None) -> tuple[str, ...]:
    """Metrics that a model of a task may have, before its head is known; all where the task is not."""
    if task is None or task not in KINDS:
        return tuple(KNOWN_METRICS)
    has = {metric for kind in KINDS[task] for metric in TASKS[kind].metrics}
    return tuple(metric for metric in KNOWN_METRICS if metric in has)
