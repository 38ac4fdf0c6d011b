"""Palettes from recipe to package: what k-means found is what ships, and targets without the format refuse it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.calibration import CalibrationData
from edgeq.errors import ConfigError, UnsupportedError
from edgeq.pipeline.forward.data import divide
from edgeq.pipeline.quantizing import quantize_model
from edgeq.progress import SilentProgress
from edgeq.quantize.recipes import Recipe, load_recipe, parse_recipe
from edgeq.quantize.recipes.schema import LayerSpec
from edgeq.runtime.adapter import Signature
from edgeq.samples import Text
from edgeq.targets import get_target
from edgeq.targets.target import LoweringInput, LoweringOptions
from edgeq.types import Precision, Task

pytest.importorskip("coremltools")

SEQ = 16


@pytest.fixture(scope="module")
def model(exported: Any) -> Any:
    return exported("bert", Task.SENTENCE_EMBEDDING)


@pytest.fixture(scope="module")
def data(model: Any) -> Any:
    words = [Text(f"{first} {second} {third}") for first in "abcd" for second in "efgh" for third in "ijkl"]
    samples = CalibrationData(source="words", samples=words, sha256="0" * 64, total=64)
    return divide(samples, model.preprocessor, calibration_samples=40, entry=model.head.entry, max_length=SEQ)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEQ_CACHE", str(tmp_path / "cache"))


def palette(bits: int, block_size: int = -1, method: str = "kmeans") -> Recipe:
    recipe = load_recipe("palette4")
    return replace(recipe, default=LayerSpec("palette", bits, block_size, method=method))


def package(model: Any, data: Any, recipe: Recipe, folder: Path) -> tuple[Any, Any, Any]:
    found = quantize_model(model.canonical, data, recipe, SilentProgress())
    target = get_target("coreml")
    (spec,) = target.variants(recipe)
    source = LoweringInput(
        model.canonical,
        found.plan,
        found.graph,
        found.weights,
        found.precision,
        palettes=found.palettes,
    )
    lowered = target.lower(spec, source, LoweringOptions(SEQ), folder)
    session = target.open(spec, lowered.model, Signature(lowered.inputs, lowered.outputs))
    return found, lowered, session


def error(model: Any, data: Any, session: Any) -> float:
    pairs = [(model.reference(feeds), session.run(feeds)) for feeds in data.held_out]
    a, b = (np.concatenate([pair[side]["sentence_embedding"] for pair in pairs]) for side in (0, 1))
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


def test_more_bits_and_more_tables_come_closer(model: Any, data: Any, tmp_path: Path) -> None:
    cases = {"4": palette(4), "6": palette(6), "8": palette(8), "4 by rows": palette(4, 8)}
    found = {
        name: error(model, data, package(model, data, recipe, tmp_path / name)[2])
        for name, recipe in cases.items()
    }
    assert found["8"] < found["6"] < found["4"] < 0.5
    assert found["4 by rows"] < found["4"]


def test_choosing_entries_in_turn_comes_closer(model: Any, data: Any, tmp_path: Path) -> None:
    nearest, in_turn = (
        package(model, data, palette(4, method=method), tmp_path / method) for method in ("kmeans", "gptq")
    )
    assert error(model, data, in_turn[2]) < 0.9 * error(model, data, nearest[2])
    methods = {
        name: {item.method for item in found.plan.weights}
        for name, found in (("nearest", nearest[0]), ("in turn", in_turn[0]))
    }
    # The word table has no input to learn from.
    assert methods == {"nearest": {"kmeans"}, "in turn": {"gptq", "kmeans"}}
    tables = [item for item in in_turn[0].plan.weights if item.method == "kmeans"]
    assert all("embedding" in item.initializer for item in tables)


def test_the_plan_and_the_package_hold_the_same_palettes(model: Any, data: Any, tmp_path: Path) -> None:
    found, lowered, session = package(model, data, palette(4), tmp_path)
    assert found.precision is Precision.INT4 and found.is_calibrated
    assert lowered.requirements == {"min_ios": 17}
    assert lowered.placement["compressed_weights"] == len(found.palettes) > 0
    decisions = {item.initializer: item for item in found.plan.weights}
    assert decisions.keys() == found.palettes.keys()
    interpreter = session._runner
    counts = interpreter.operator_counts()
    assert counts["constexpr_lut_to_dense"] == len(found.palettes)
    for name, item in decisions.items():
        assert (item.method, item.block_size) == ("kmeans", -1)
        assert item.bits_per_weight == pytest.approx(found.palettes[name].bits_per_weight, abs=1e-4)
    query = next(name for name in found.palettes if "query" in name)
    weight = model.canonical.model.graph.initializers[query].const_value.numpy()
    dense = found.palettes[query].dense().T
    assert decisions[query].weight_error == pytest.approx(
        np.linalg.norm(dense - weight) / np.linalg.norm(weight), rel=1e-4
    )
    # What `export --sensitivity` puts in the place of each layer alone.
    np.testing.assert_array_equal(found.rounded_weights()[decisions[query].name], dense)


def test_tables_by_rows_need_a_newer_ios(model: Any, data: Any, tmp_path: Path) -> None:
    assert package(model, data, palette(4, 8), tmp_path)[1].requirements == {"min_ios": 18}
    with pytest.raises(UnsupportedError, match="lookup table per group of rows"):
        get_target("coreml").check(palette(4, 8), LoweringOptions(SEQ, ios=17))


def test_groups_must_divide_the_channels(model: Any, data: Any) -> None:
    with pytest.raises(ConfigError, match="32 output channels, which groups of 64 do not divide"):
        quantize_model(model.canonical, data, palette(4, 64), SilentProgress())


@pytest.mark.parametrize("target", ["cpu", "android"])
def test_targets_without_palettes_refuse_before_the_work(target: str) -> None:
    specs = get_target(target).variants(load_recipe("palette4"))
    assert all("no palettized weights" in str(spec.refusal) for spec in specs)
    assert any(spec.refusal is None for spec in get_target(target).variants(load_recipe("int4")))


@pytest.mark.parametrize(
    ("default", "message"),
    [
        ("{format: palette, bits: 4, method: hqq}", "method hqq for format palette; expected one of kmeans"),
        ("{format: weight-only, bits: 4, method: kmeans}", "method kmeans for format weight-only"),
        ("{format: weight-only, bits: 6}", "6 bits for format weight-only"),
        ("{format: palette, bits: 5, method: kmeans}", "`bits`.*is 5"),
    ],
)
def test_combinations_that_do_not_exist(default: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_recipe(f"name: x\ndefault: {default}\n")
