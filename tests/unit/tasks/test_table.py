"""Which kind a model is: its task, its config's problem type, and the width of its head."""

from __future__ import annotations

from typing import Any

import pytest

from edgeq.bundle.manifest import PostprocessKind, PostprocessStep
from edgeq.errors import ModelError
from edgeq.exporters.facts import read_problem_type
from edgeq.tasks import TASKS, Kind, head_of, is_autoregressive, possible_metrics
from edgeq.types import ProblemType, Role, SourceInfo, Task, TensorSpec

CLASSIFY = Task.SEQUENCE_CLASSIFICATION


def kind(task: Task, width: int = 3, problem: ProblemType | None = None) -> Kind:
    source = SourceInfo("m", None, (), None, task, "bert", 1, (), problem)
    return head_of(source, [TensorSpec("logits", "float32", ("batch", width), Role.LOGITS)]).entry.kind


@pytest.mark.parametrize(
    ("width", "problem", "expected"),
    [
        (3, None, Kind.SINGLE_LABEL),
        (3, ProblemType.SINGLE_LABEL, Kind.SINGLE_LABEL),
        (3, ProblemType.MULTI_LABEL, Kind.MULTI_LABEL),
        (3, ProblemType.REGRESSION, Kind.SCORE),
        (1, None, Kind.SCORE),
        (1, ProblemType.REGRESSION, Kind.SCORE),
        (1, ProblemType.SINGLE_LABEL, Kind.SCORE),
        (1, ProblemType.MULTI_LABEL, Kind.MULTI_LABEL),
    ],
)
def test_of_a_sequence_classifier(width: int, problem: ProblemType | None, expected: Kind) -> None:
    assert kind(CLASSIFY, width, problem) is expected


@pytest.mark.parametrize(
    ("step", "problem", "expected"),
    [
        (PostprocessKind.SIGMOID, None, Kind.MULTI_LABEL),
        (PostprocessKind.SOFTMAX, None, Kind.SINGLE_LABEL),
        (PostprocessKind.SIGMOID, ProblemType.SINGLE_LABEL, Kind.SINGLE_LABEL),
    ],
)
def test_of_a_bundle_that_names_no_problem_type(
    step: PostprocessKind, problem: ProblemType | None, expected: Kind
) -> None:
    """As those of format 1.0 do not."""
    source = SourceInfo("m", None, (), None, CLASSIFY, "bert", 1, (), problem)
    outputs = [TensorSpec("logits", "float32", ("batch", 3), Role.LOGITS)]
    assert head_of(source, outputs, steps=[PostprocessStep(step, ("logits",))]).entry.kind is expected


def test_every_other_task_has_one_kind() -> None:
    others = {kind(task) for task in Task if task is not CLASSIFY}
    assert others == set(TASKS) - {Kind.SINGLE_LABEL, Kind.MULTI_LABEL, Kind.SCORE}


def test_only_language_models_write_token_by_token() -> None:
    assert [task for task in Task if is_autoregressive(task)] == [Task.TEXT_GENERATION]
    assert not is_autoregressive(None)


def test_of_a_language_model_only_logits_are_judged() -> None:
    source = SourceInfo("m", None, (), None, Task.TEXT_GENERATION, "llama", 1)
    logits = TensorSpec("logits", "float32", ("batch", "sequence", 8), Role.LOGITS)
    present = TensorSpec("present.0.key", "float32", ("batch", 1, "total", 4), Role.PRESENT)
    assert head_of(source, [logits, present]).outputs == (logits,)


def test_the_table_has_every_kind() -> None:
    assert set(TASKS) == set(Kind)


def test_metrics_before_the_head_is_known() -> None:
    assert {"kl_mean", "score_error_mean", "decision_agreement"} <= set(possible_metrics(CLASSIFY))
    assert "kl_mean" not in possible_metrics(Task.SENTENCE_EMBEDDING)
    assert "span_agreement" in possible_metrics(None)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, None),
        ({"problem_type": None}, None),
        ({"problem_type": "multi_label_classification"}, ProblemType.MULTI_LABEL),
    ],
)
def test_the_problem_type_is_read_from_the_config(
    config: dict[str, Any], expected: ProblemType | None
) -> None:
    assert read_problem_type(CLASSIFY, config) is expected
    assert read_problem_type(Task.TOKEN_CLASSIFICATION, config) is None


def test_a_problem_type_that_is_none_is_refused() -> None:
    with pytest.raises(ModelError, match="problem_type"):
        read_problem_type(CLASSIFY, {"problem_type": "guessing"})
