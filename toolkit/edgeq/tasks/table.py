"""The table of kinds, and how a model's kind is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgeq.bundle.manifest import Manifest, PostprocessKind, PostprocessStep, Variant
from edgeq.metrics import KNOWN_METRICS
from edgeq.tasks.embedding import EMBEDDING, TOKEN_VECTORS
from edgeq.tasks.entry import Head, Kind, Mode, TaskEntry
from edgeq.tasks.fill_mask import FILL_MASK
from edgeq.tasks.multi_label import MULTI_LABEL
from edgeq.tasks.next_token import NEXT_TOKEN
from edgeq.tasks.question_answering import QUESTION_ANSWERING
from edgeq.tasks.score import SCORE
from edgeq.tasks.single_label import SINGLE_LABEL
from edgeq.tasks.token_classification import TOKEN_CLASSIFICATION
from edgeq.types import ProblemType, Role, SourceInfo, Task, TensorSpec

ENTRIES: Mapping[Task, tuple[TaskEntry, ...]] = {
    Task.FEATURE_EXTRACTION: (TOKEN_VECTORS,),
    Task.SENTENCE_EMBEDDING: (EMBEDDING,),
    Task.SEQUENCE_CLASSIFICATION: (SINGLE_LABEL, MULTI_LABEL, SCORE),
    Task.TOKEN_CLASSIFICATION: (TOKEN_CLASSIFICATION,),
    Task.QUESTION_ANSWERING: (QUESTION_ANSWERING,),
    Task.FILL_MASK: (FILL_MASK,),
    Task.TEXT_GENERATION: (NEXT_TOKEN,),
}
"""Kinds that a task's models may have; the first unless the head says otherwise."""
TASKS: Mapping[Kind, TaskEntry] = {entry.kind: entry for entries in ENTRIES.values() for entry in entries}
LABELLED_METRICS = frozenset(entry.labelled.name for entry in TASKS.values() if entry.labelled is not None)
"""What labelled data are scored by; a bundle that promises one is judged where such data are given."""
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
    """
    mask_id = (special_ids or {}).get("mask_token")
    entry = _entry(_with_problem(source, steps), outputs)
    return Head(entry, entry.outputs(outputs), source.labels, mask_id)


def head_in(manifest: Manifest, variant: Variant | None = None) -> Head:
    """The head of a bundle's model; of one of its variants, where their outputs may differ."""
    tokenizer = manifest.text_processor
    special = {} if tokenizer is None else tokenizer.special_ids
    outputs = (variant or manifest.variants[0]).outputs
    return head_of(manifest.source, outputs, special, manifest.postprocess)


def mode_of(task: Task | None) -> Mode:
    """How a task's models are run; a task that no config names is no language model's."""
    return Mode.FORWARD if task is None else ENTRIES[task][0].mode


def is_autoregressive(task: Task | None) -> bool:
    """Whether a task's models write token by token."""
    return mode_of(task) is Mode.AUTOREGRESSIVE


def _with_problem(source: SourceInfo, steps: Sequence[PostprocessStep]) -> SourceInfo:
    """A sigmoid for each label is what only several labels at once are read with."""
    has_sigmoid = any(step.step is PostprocessKind.SIGMOID for step in steps)
    if source.problem_type is not None or not has_sigmoid:
        return source
    return replace(source, problem_type=ProblemType.MULTI_LABEL)


def _entry(source: SourceInfo, outputs: Sequence[TensorSpec]) -> TaskEntry:
    entries = ENTRIES[source.task]
    if len(entries) == 1:
        return entries[0]
    width = next((spec.shape[-1] for spec in outputs if spec.role is Role.LOGITS), None)
    if width == 1 and source.problem_type is not ProblemType.MULTI_LABEL:
        return SCORE  # Whatever the config says: there is nothing to choose from.
    return entries[0] if source.problem_type is None else TASKS[PROBLEMS[source.problem_type]]


def possible_metrics(task: Task | None) -> tuple[str, ...]:
    """Metrics that a model of a task may have, before its head is known; all where the task is not."""
    if task is None:
        return tuple(KNOWN_METRICS)
    has = {metric for entry in ENTRIES[task] for metric in entry.metrics}
    return tuple(metric for metric in KNOWN_METRICS if metric in has)
