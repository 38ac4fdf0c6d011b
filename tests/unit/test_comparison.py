"""Gates: parsed strictly, judged strictly, derived with a margin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeq.bundle.manifest import Gate
from edgeq.comparison import (
    GATE_MARGIN,
    batch_invariance,
    check_gate_metrics,
    compare_outputs,
    gates_for,
    judge,
    parse_gate,
)
from edgeq.errors import UsageError
from edgeq.processors.text_padding import TEXT_PADDING
from edgeq.tasks import TASKS, Head, Kind
from edgeq.types import Precision, Role, TensorSpec

METRICS = {"out": {"n": 10.0, "cosine_mean": 0.98, "cosine_p01": 0.96, "cosine_min": 0.95, "max_abs": 0.2}}
EMBEDDING = TASKS[Kind.EMBEDDING]
OUT = TensorSpec("out", "float32", ("batch", 2), Role.SENTENCE_EMBEDDING)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cosine_mean>=0.99", ("cosine_mean", ">=", 0.99)),
        (" cosine >= 0.99 ", ("cosine_mean", ">=", 0.99)),
        ("max_abs<=1e-2", ("max_abs", "<=", 0.01)),
        ("kl<=0.01", ("kl_mean", "<=", 0.01)),
        ("cosine_mean=0.99", ("cosine_mean", ">=", 0.99)),
        ("kl = 0.01", ("kl_mean", "<=", 0.01)),
    ],
)
def test_gates_are_read(text: str, expected: tuple[str, str, float]) -> None:
    gate = parse_gate(text)
    assert (gate.metric, gate.op, gate.threshold) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cosine_mean>0.9", "is not a gate"),
        ("cosine_mean", "is not a gate"),
        ("cosine_mean==0.9", "is not a gate"),
        ("cosine_mean=10", "out of range"),
        ("accuracy>=0.9", "unknown metric"),
        ("cosine_mean<=0.9", "can hardly fail"),
        ("max_abs>=0.1", "can hardly fail"),
        ("cosine_mean>=10", "out of range"),
        ("cosine_mean>=1e999", "finite"),
        ("cosine_mean>=--", "not a number"),
        ("", "is not a gate"),
    ],
)
def test_bad_gates_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_gate(text)


def test_the_floor_of_the_precision_holds_or_fails() -> None:
    verdicts = {
        p: gates_for("v", p, METRICS, [], 10, EMBEDDING)[0].passed for p in (Precision.INT8, Precision.FP16)
    }
    assert verdicts == {Precision.INT8: True, Precision.FP16: False}


def test_requested_gates_replace_the_floor() -> None:
    gates = gates_for("v", Precision.INT8, METRICS, [parse_gate("max_abs<=0.1")], 10, EMBEDDING)
    assert [(gate.metric, gate.passed) for gate in gates[:1]] == [("max_abs", False)]
    assert gates[0].derived_from == "--gate"
    assert "default floor" not in {gate.derived_from for gate in gates}


def test_derived_gates_leave_the_margin() -> None:
    derived = [
        gate
        for gate in gates_for("v", Precision.INT8, METRICS, [], 10, EMBEDDING)
        if "measured" in gate.derived_from
    ]
    assert {gate.metric: gate.threshold for gate in derived} == pytest.approx(
        {"cosine_mean": 1 - GATE_MARGIN * 0.02, "cosine_min": 1 - GATE_MARGIN * 0.05}
    )
    assert all(gate.passed for gate in derived)


def test_a_gate_on_a_metric_the_task_lacks() -> None:
    with pytest.raises(UsageError, match="does not have"):
        check_gate_metrics([parse_gate("top1_agreement>=0.9")], EMBEDDING.metrics)
    check_gate_metrics([parse_gate("top1_agreement>=0.9")], TASKS[Kind.SINGLE_LABEL].metrics)
    check_gate_metrics([parse_gate("cosine>=0.9")], EMBEDDING.metrics)


def test_not_a_number_fails() -> None:
    gate = Gate("v", "out", "cosine_mean", ">=", 0.9, "--gate")
    assert judge(gate, {"cosine_mean": float("nan")}).passed is False
    assert judge(replace(gate, op="<="), {"cosine_mean": float("nan")}).passed is False
    assert judge(gate, {"cosine_mean": 0.9}).passed is True


def test_candidates_are_kept_apart() -> None:
    batches = [{"x": np.eye(2, dtype=np.float32)}]
    compared = compare_outputs(
        lambda feeds: {"out": feeds["x"]},
        {"same": lambda feeds: {"out": feeds["x"]}, "other": lambda feeds: {"out": feeds["x"][::-1].copy()}},
        batches,
        Head(EMBEDDING, (OUT,)),
    )
    found = {name: comparison.metrics()["out"] for name, comparison in compared.items()}
    assert found["same"]["cosine_min"] == 1 and found["other"]["cosine_mean"] == 0


def test_batch_invariance_notices_a_model_that_looks_at_its_neighbours() -> None:
    batch = {
        "input_ids": np.array([[1, 2, 3], [4, 5, 0]]),
        "attention_mask": np.array([[1, 1, 1], [1, 1, 0]]),
    }

    def alone(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        ids = feeds["input_ids"] * feeds["attention_mask"]
        return {"out": np.stack([ids.sum(axis=1), np.ones(len(ids))], axis=1).astype(np.float32)}

    def coupled(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        out = alone(feeds)["out"]
        return {"out": out - out.mean(axis=0) + np.array([0, 1], np.float32)}

    assert batch_invariance(alone, batch, "out", TEXT_PADDING) == pytest.approx(1.0, abs=1e-12)
    assert batch_invariance(coupled, batch, "out", TEXT_PADDING) < 0.9
