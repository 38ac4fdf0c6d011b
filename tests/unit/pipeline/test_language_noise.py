"""Bounds of language models that are not measured: the own error counts, and says why."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.bundle.golden import GoldenCase
from edgeq.comparison import judge
from edgeq.errors import ModelError
from edgeq.pipeline.drift import drift_of, worst
from edgeq.pipeline.generation import noise as language_noise
from edgeq.pipeline.generation.noise import (
    HEAD,
    LLAMA_CPP,
    LOGITS,
    OwnError,
    decoder_bounds,
    own_error_bounds,
)
from edgeq.pipeline.golden_metrics import golden_metrics
from edgeq.pipeline.kernel_noise import CaseNoise, Noise
from edgeq.progress import SilentStage
from edgeq.targets import kernels

RNG = np.random.default_rng(0)
RULE = OwnError(2.0, 1e-4, "as told")


def cases(error: float = 0.1) -> list[GoldenCase]:
    logits = [RNG.normal(size=(1, 4, 50)).astype(np.float32) for _ in range(3)]
    noise = [RNG.normal(size=(1, 4, 50)).astype(np.float32) * np.float32(error) for _ in range(3)]
    return [
        GoldenCase(f"c{i}", (), {}, {"logits": logits[i]}, {"v": {"logits": logits[i] + noise[i]}})
        for i in range(3)
    ]


def test_a_run_as_far_from_the_original_passes_and_one_much_farther_does_not() -> None:
    mine = cases()
    bounds = own_error_bounds("v", mine, RULE)

    def verdicts(error: float) -> dict[str, bool | None]:
        noise = [RNG.normal(size=(1, 4, 50)).astype(np.float32) * np.float32(error) for _ in mine]
        found = [
            {"logits": case.reference["logits"] + extra} for case, extra in zip(mine, noise, strict=True)
        ]
        pairs = zip(mine, found, strict=True)
        drifts = [drift_of(LOGITS, case, case.outputs["v"]["logits"], one["logits"]) for case, one in pairs]
        own = [
            judge(gate, drift.metrics())
            for case, drift in zip(mine, drifts, strict=True)
            for gate in bounds.tolerances[case.id]
        ]
        kl = golden_metrics(HEAD, mine, found)["logits"]["kl_mean"]
        gates = [judge(gate, worst(drifts).metrics() | {"golden_kl_mean": kl}) for gate in bounds.gates]
        return {gate.metric: gate.passed for gate in [*own, *gates]}

    assert all(verdicts(0.1).values())
    far = verdicts(0.5)
    assert not far["max_abs"] and not far["golden_kl_mean"] and not far["drift_rms"]


def test_the_reason_is_in_every_bound() -> None:
    bounds = own_error_bounds("v", cases(), LLAMA_CPP)
    gates = [*bounds.gates, *(gate for own in bounds.tolerances.values() for gate in own)]
    assert len(gates) == 3 + 3 * 2
    assert all("keys and values to float16" in gate.derived_from for gate in gates)
    assert bounds.largest == bounds.tolerances["c0"][0].threshold


def test_an_exact_file_still_has_room_for_its_number_format() -> None:
    bounds = own_error_bounds("v", cases(0.0), LLAMA_CPP)
    assert all(gate.threshold > 0 for gate in bounds.gates)
    assert bounds.largest > 0


@pytest.mark.parametrize("place", [0, 2])
def test_nan_fails_the_export(place: int) -> None:
    mine = cases()
    mine[place].outputs["v"]["logits"][0, 1, 2] = math.nan
    with pytest.raises(ModelError, match="`v` returns NaN"):
        own_error_bounds("v", mine, RULE)


def test_a_file_too_large_for_a_session_is_run_some_nodes_at_a_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"")
    measured = []

    def measure(twins: Any, variant: str, head: Any, found: Any, stage: Any) -> Any:
        measured.append(type(twins).__name__)
        by_case = {case.id: CaseNoise(0.1, 0.0) for case in found}
        return {"logits": Noise(by_case, 0.1, 0.1, 1.0, True, [{}], (), (), values=600, channels=100)}

    monkeypatch.setattr(language_noise, "measure_noise", measure)
    for limit in (0, -1):
        monkeypatch.setattr(kernels, "HELD_BYTES", limit)
        bounds = decoder_bounds("v", model, cases(), SilentStage())
        assert "kernel noise 0.1" in bounds.gates[0].derived_from
    assert measured == ["DecoderTwins", "SegmentTwins"]
