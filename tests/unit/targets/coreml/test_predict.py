"""Core ML's own runtime: refused with a way out where there is none."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeq
from edgeq.errors import UnsupportedError
from edgeq.targets.coreml import predict
from edgeq.targets.coreml.interpreter.machine import MilInterpreter
from edgeq.targets.coreml.predict import CoreMLRunner
from edgeq.types import Task, Verification


@pytest.mark.skipif(sys.platform == "darwin", reason="runs there")
def test_core_ml_needs_a_mac() -> None:
    with pytest.raises(UnsupportedError, match="macOS only") as caught:
        CoreMLRunner(Path("Model.mlpackage"))
    assert caught.value.hint is not None


class FakeCoreML:
    """In the place of coremltools: the interpreter on the CPU, and its outputs negated on all units."""

    class ComputeUnit:
        CPU_ONLY, ALL = "CPU_ONLY", "ALL"

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.models = self

    def MLModel(self, path: str, compute_units: str) -> FakeModel:
        self.opened.append(compute_units)
        return FakeModel(MilInterpreter(Path(path)), 1 if compute_units == "CPU_ONLY" else -1)


class FakeModel:
    """What `MLModel` returns."""

    def __init__(self, interpreter: MilInterpreter, sign: int) -> None:
        self.interpreter, self.sign = interpreter, sign

    def predict(self, feeds: dict[str, Any]) -> dict[str, Any]:
        assert all(array.dtype == np.int32 for array in feeds.values())
        return {name: self.sign * array for name, array in self.interpreter.run(feeds).items()}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, tiny_model: Any) -> Path:
    """A Core ML bundle of a tiny model; read it, never write to it."""
    work = tmp_path_factory.mktemp("coreml")
    folder = str(tiny_model("bert", Task.SENTENCE_EMBEDDING))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEQ_CACHE", str(work / "cache"))
        return edgeq.export(
            folder, target="coreml", precision="fp16", seq_len=16, calib_samples=16, output=work / "out"
        ).path


def test_a_mac_runs_all_units_and_the_cpu_alone(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCoreML()
    monkeypatch.setattr(predict, "coremltools", lambda: fake)
    monkeypatch.setattr(sys, "platform", "darwin")
    report = edgeq.validate(bundle)
    assert fake.opened == ["ALL", "CPU_ONLY"]
    assert [report.title(one) for one in report.variants] == [
        "coreml-fp16, all compute units",
        "coreml-fp16, CPU only",
    ]
    assert {one.verification for one in report.variants} == {Verification.EXECUTED}
    everywhere, alone = (one.outputs["sentence_embedding"]["cosine_min"] for one in report.variants)
    assert everywhere < -0.99 and alone > 0.99 and not report.passed
    failed = {report.title(one) for one in report.variants for gate in one.gates if not gate.passed}
    assert failed == {"coreml-fp16, all compute units"}


def test_here_the_interpreter_is_the_only_way(bundle: Path) -> None:
    (only,) = edgeq.validate(bundle).variants
    assert only.verification is Verification.SIMULATED
