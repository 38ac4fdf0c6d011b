"""Sequential GPTQ: later layers make up for what earlier ones lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.calibration import CalibrationData
from edgeq.pipeline import drive_weights, sequential
from edgeq.pipeline.forward.data import divide
from edgeq.pipeline.request import default_samples
from edgeq.pipeline.weight_jobs import weight_jobs
from edgeq.pipeline.weight_only import quantize_weights
from edgeq.progress import SilentProgress
from edgeq.quantize.layers import find_layers
from edgeq.quantize.recipes import load_recipe
from edgeq.quantize.recipes.schema import LayerSpec
from edgeq.quantize.shell import Shell
from edgeq.samples import Text
from edgeq.types import Task

OUTPUT = "sentence_embedding"


@pytest.fixture(scope="module")
def model(exported: Callable[..., Any]) -> Any:
    return exported("bert", Task.SENTENCE_EMBEDDING)


@pytest.fixture(scope="module")
def data(model: Any) -> Any:
    rng = np.random.default_rng(0)
    texts = [Text("".join(rng.choice(list("abcdefghij "), 30))) for _ in range(300)]
    samples = CalibrationData(source="letters", samples=texts, sha256="0" * 64, total=300)
    return divide(samples, model.preprocessor, calibration_samples=100, entry=model.head.entry, max_length=32)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEQ_CACHE", str(tmp_path / "cache"))


def jobs_of(model: Any) -> Any:
    layers = find_layers(model.canonical.model)
    spec = LayerSpec("weight-only", 4, 32, True, "gptq")
    recipe = replace(load_recipe("int4"), default=spec, rules=())
    return layers, weight_jobs(layers, recipe.resolve(layers.refs))


def held_out_error(model: Any, data: Any, layers: Any, done: Any) -> float:
    shell = Shell(model.canonical.model, layers, [OUTPUT])
    changed = {layer.decision.name: layer.weight.dequantize() for layer in done}
    session = shell.session()
    before, after = (
        np.concatenate([shell.run(session, feeds, weights)[OUTPUT] for feeds in data.held_out])
        for weights in ({}, changed)
    )
    return float(np.linalg.norm(after - before) / np.linalg.norm(before))


def test_closer_to_the_original_than_each_layer_for_itself(
    model: Any, data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers, jobs = jobs_of(model)
    in_turn = quantize_weights(model.canonical.model, jobs, data, SilentProgress())
    monkeypatch.setattr(drive_weights, "is_sequential", lambda job: False)
    alone = quantize_weights(model.canonical.model, jobs, data, SilentProgress())
    assert [layer.decision.name for layer in in_turn] == [job.name for job in jobs]
    assert {layer.decision.method for layer in in_turn} == {layer.decision.method for layer in alone}
    errors = [held_out_error(model, data, layers, done) for done in (in_turn, alone)]
    assert errors[0] < 0.95 * errors[1] < 0.5


def test_a_shared_weight_is_quantized_beforehand(exported: Callable[..., Any]) -> None:
    _, jobs = jobs_of(exported("albert", Task.SENTENCE_EMBEDDING))
    assert any(len(job.inputs) > 1 for job in jobs)
    assert not any(sequential.is_sequential(job) for job in jobs if len(job.inputs) > 1)


def test_tables_and_other_methods_do_not_wait(model: Any) -> None:
    _, jobs = jobs_of(model)
    tables = [job for job in jobs if not job.inputs]
    assert tables and not any(map(sequential.is_sequential, tables))
    other = [replace(job, spec=replace(job.spec, method="rtn")) for job in jobs]
    assert not any(map(sequential.is_sequential, other))


def test_gptq_gets_more_samples_when_nobody_says() -> None:
    assert default_samples(load_recipe("int4")) == 1024
    assert default_samples(load_recipe("int8")) == default_samples(load_recipe("fp32")) == 256
