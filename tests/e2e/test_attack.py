"""A slice of benchmarks/attack.py: generated inputs of every kind end in an answer or an error of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

COUNTS = {
    "manifests": 300, "bundles": 15, "archives": 150, "goldens": 400, "settings": 500, "tokenizers": 60,
    "templates": 60, "safetensors": 400, "gguf": 400, "onnx": 400, "calibration": 300, "labels": 300,
}  # fmt: skip
SEED = 11
MOST_CPU_SECONDS = 2.0


@pytest.fixture(scope="module")
def kinds(hostile_inputs: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return hostile_inputs.Kinds(tmp_path_factory.mktemp("attack") / "kinds")


@pytest.mark.parametrize("name", COUNTS)
def test_no_input_of_a_stranger_is_an_internal_error(
    name: str, hostile_inputs: Any, kinds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(kinds.work))
    found = hostile_inputs.attack(kinds.named(name), COUNTS[name], SEED, kinds.folder)
    assert found.internal == 0, found.examples
    assert found.slowest_cpu < MOST_CPU_SECONDS
    assert found.outside == []
    # Neither all good, which would try nothing, nor all refused, which would try the first check alone.
    assert 0 < found.outcomes["taken"] < found.inputs
    assert [path for path in kinds.work.iterdir() if path.name.startswith("edgeq-")] == []


def test_the_attack_sees_what_it_looks_for(hostile_inputs: Any, tmp_path: Path) -> None:
    def write() -> None:
        (tmp_path / "outside").write_text("x")

    def crash() -> None:
        raise KeyError("x")

    def make(generator: Any) -> Any:
        return generator.choice((write, crash))

    inside = tmp_path / "inside"
    inside.mkdir()
    found = hostile_inputs.attack(hostile_inputs.Kind("self", make), 20, SEED, inside)
    assert 0 < found.internal < 20
    assert len(found.outside) == found.outcomes["taken"]
    assert found.outside[0] == f"open {tmp_path / 'outside'}"


def test_the_same_seed_gives_the_same_inputs(hostile_inputs: Any, kinds: Any) -> None:
    kind = kinds.named("gguf")
    first, second, other = (
        hostile_inputs.attack(kind, 100, seed, kinds.folder).outcomes for seed in (SEED, SEED, SEED + 1)
    )
    assert first == second
    assert first != other
