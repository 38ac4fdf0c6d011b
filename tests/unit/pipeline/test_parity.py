"""The difference to the ONNX variant of the same plan: its bound, and that a wrong lowering exceeds it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from edgeq.pipeline.forward.against_onnx import (
    FLOAT32_NOISE,
    OnnxProbe,
    OnnxVariant,
    difference_bound,
    difference_gates,
)
from edgeq.pipeline.forward.measure import describe_environment, is_timed
from edgeq.types import Feeds, Outputs, Role, TensorSpec, Verification

OUTPUT = TensorSpec("sentence_embedding", "float32", ("batch", 8), Role.SENTENCE_EMBEDDING)
FEEDS = {"input_ids": np.arange(6).reshape(2, 3), "attention_mask": np.ones((2, 3), np.int64)}


@dataclass
class Scaled:
    """A session whose outputs are off by a factor."""

    factor: float
    rounding_noise: float = 0.01
    verification: Verification = Verification.SIMULATED

    def run(self, feeds: Feeds) -> Outputs:
        return {OUTPUT.name: exact(feeds)[OUTPUT.name] * self.factor}


def exact(feeds: Feeds) -> Outputs:
    rows = np.random.default_rng(0).standard_normal((len(feeds["input_ids"]), 8))
    return {OUTPUT.name: rows.astype(np.float32)}


@pytest.mark.parametrize(("factor", "passed"), [(1.005, True), (1.02, False), (-1.0, False)])
def test_a_difference_beyond_rounding_fails(factor: float, passed: bool) -> None:
    probe = OnnxProbe(Scaled(factor), OnnxVariant("cpu-fp16", exact, {OUTPUT.name: 0.0}), [OUTPUT])  # type: ignore[arg-type]
    found = probe(FEEDS)
    np.testing.assert_array_equal(found[OUTPUT.name], Scaled(factor).run(FEEDS)[OUTPUT.name])
    (gate,) = difference_gates("coreml-fp16", probe.parities())
    assert (gate.passed, gate.op, gate.threshold) == (passed, "<=", 0.01)
    # Every row is off by |factor - 1|, in float32.
    assert gate.value == pytest.approx(abs(factor - 1), rel=1e-4)


def test_the_bound_has_both_parts() -> None:
    assert difference_bound(0.0, 0.0)[0] == FLOAT32_NOISE
    assert difference_bound(0.003, 0.0) == (0.003, "rounding noise 0.003")
    bound, reason = difference_bound(0.003, 0.04)
    assert bound == pytest.approx(math.hypot(0.003, 0.04), rel=1e-2)
    assert "codes it flips" in reason


def test_simulated_time_is_no_latency() -> None:
    assert not is_timed(Scaled(1.0))  # type: ignore[arg-type]
    assert is_timed(Scaled(1.0, verification=Verification.EXECUTED_OTHER_ARCH))  # type: ignore[arg-type]


def test_an_environment_names_its_program_first() -> None:
    given = {"onnxruntime": "1.2", "architecture": "x86-64", "cpu": "C", "provider": "P"}
    assert describe_environment(given) == "onnxruntime 1.2, P, x86-64, C"
