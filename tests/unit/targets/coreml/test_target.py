"""The Core ML target: what it refuses before any work, what it writes, and its packages as sessions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.errors import DataError, UnsupportedError
from edgeq.exporters.equivalence import run_graph
from edgeq.quantize.recipes import load_recipe
from edgeq.runtime.adapter import Signature
from edgeq.samples import as_samples
from edgeq.targets import get_target
from edgeq.targets.coreml.session import UNIT_ROUNDOFF, rounded_values
from edgeq.targets.target import Lowered, LoweringInput, LoweringOptions, Session
from edgeq.types import Feeds, Outputs, Precision, Task, Verification

TARGET = get_target("coreml")
TEXTS = ["a cat sat", "the dog ran over the hill"]


def lowered(
    model: Any, folder: Path, precision: str = "fp16", lengths: tuple[int, ...] = (32,), **source: Any
) -> Lowered:
    (spec,) = TARGET.variants(load_recipe(precision))
    given = LoweringInput(
        model.canonical,
        precision=Precision(precision),
        calibration=[model.preprocessor(as_samples(TEXTS))],
        **source,
    )
    return TARGET.lower(spec, given, LoweringOptions(max(lengths), lengths), folder)


def opened(found: Lowered, precision: str = "fp16") -> Session:
    (spec,) = TARGET.variants(load_recipe(precision))
    return TARGET.open(spec, found.model, Signature(found.inputs, found.outputs))


@pytest.mark.parametrize(
    ("recipe", "ios", "lengths", "reason"),
    [
        ("int8", 16, (), "static activation quantization"),
        ("int4", 17, (), "block-wise int4 weight"),
        ("q8", 17, (), "block-wise int8 weight"),
        ("fp16", 17, (16, 32), "2 sequence lengths"),
    ],
)
def test_an_old_ios_is_refused_before_the_work(
    recipe: str, ios: int, lengths: tuple[int, ...], reason: str
) -> None:
    options = LoweringOptions(32, lengths, ios)
    with pytest.raises(UnsupportedError, match=reason) as caught:
        TARGET.check(load_recipe(recipe), options)
    assert caught.value.hint == f"--ios {ios + 1}"
    TARGET.check(load_recipe(recipe), replace(options, ios=ios + 1))
    TARGET.check(load_recipe(recipe), replace(options, ios=None))


def test_a_package_computes_what_the_graph_does(exported: Any, tmp_path: Path) -> None:
    model = exported("bert", Task.SENTENCE_EMBEDDING)
    found = lowered(model, tmp_path)
    assert found.requirements == {"min_ios": 17}
    assert {(spec.dtype, spec.shape) for spec in found.inputs} == {("int32", (1, 32))}
    session = opened(found)
    assert (session.static_length, session.verification) == (32, Verification.SIMULATED)
    feeds = model.preprocessor(as_samples(TEXTS))
    got, expected = session.run(feeds), run_graph(model.canonical)(feeds)
    error = np.linalg.norm(got["sentence_embedding"] - expected["sentence_embedding"], axis=1)
    # Embeddings have norm 1; the noise is what the parity gate allows.
    assert 0 < error.max() < session.rounding_noise


def test_several_lengths_pad_to_the_smallest_that_fits(exported: Any, tmp_path: Path) -> None:
    model = exported("bert", Task.FEATURE_EXTRACTION)
    found = lowered(model, tmp_path, "fp32", (8, 16, 32))
    assert found.requirements == {"min_ios": 18}
    assert found.inputs[0].shape == (1, "sequence")
    session = opened(found, "fp32")
    seen: list[int] = []
    interpreter = session._runner  # type: ignore[attr-defined]
    run: Callable[[Feeds], Outputs] = interpreter.run

    def watched(feeds: Feeds) -> Outputs:
        seen.append(feeds["input_ids"].shape[1])
        return run(feeds)

    interpreter.run = watched
    graph = run_graph(model.canonical)
    for length in (5, 8, 9, 17):
        ids = np.arange(2 * length).reshape(2, length) % 50 + 1
        feeds = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
        got, expected = session.run(feeds), graph(feeds)
        assert got["last_hidden_state"].shape == (2, length, 32)
        np.testing.assert_allclose(got["last_hidden_state"], expected["last_hidden_state"], atol=2e-5)
    assert seen == [8, 8, 8, 8, 16, 16, 32, 32]
    with pytest.raises(DataError, match="33 tokens; this variant takes 32"):
        session.run({name: np.ones((1, 33), np.int64) for name in feeds})


def test_what_float16_would_overflow_stays_float32(exported: Any, tmp_path: Path) -> None:
    model = exported("bert", Task.SENTENCE_EMBEDDING)
    assert lowered(model, tmp_path / "plain").placement["float32_nodes"] == []
    grown = replace(model.canonical, model=model.canonical.model.clone())
    weight = grown.model.graph.initializers["encoder.layer.0.output.dense.bias"]
    assert weight.const_value is not None
    # A square of 1000 is beyond float16's 65504.
    weight.const_value = ir.tensor(
        weight.const_value.numpy() + np.float32(1000) * np.eye(1, 32)[0].astype("f4")
    )
    found = lowered(replace(model, components=(grown,)), tmp_path / "grown")
    nodes = found.placement["float32_nodes"]
    assert any("encoder.layer.0.output.LayerNorm" in node for node in nodes)
    assert any("compute in float32, where float16 could overflow" in detail for detail in found.details)
    assert found.notes == () and set(found.details) == set(
        found.remarks
    )  # for the report, not for the terminal
    feeds = model.preprocessor(as_samples(TEXTS))
    got, expected = opened(found).run(feeds), run_graph(grown)(feeds)
    np.testing.assert_allclose(got["sentence_embedding"], expected["sentence_embedding"], atol=2e-2)


def test_noise_counts_what_is_rounded(exported: Any, tmp_path: Path) -> None:
    model = exported("bert", Task.SENTENCE_EMBEDDING)
    half, whole = lowered(model, tmp_path / "16"), lowered(model, tmp_path / "32", "fp32")
    assert opened(whole, "fp32").rounding_noise == 0
    session = opened(half)
    count = rounded_values(session._runner.package)  # type: ignore[attr-defined]
    assert session.rounding_noise == pytest.approx(UNIT_ROUNDOFF * count**0.5)
    assert count > 50


def test_the_package_says_where_it_comes_from(exported: Any, tmp_path: Path) -> None:
    model = exported("bert", Task.SEQUENCE_CLASSIFICATION)
    about = replace(model.source, model="someone/some-model", license="mit")
    found = lowered(model, tmp_path, about=about)
    metadata = opened(found)._runner.package.metadata  # type: ignore[attr-defined]
    assert metadata["edgeq.model"] == "someone/some-model"
    assert metadata["edgeq.recipe"] == "fp16"
    assert json.loads(metadata["edgeq.labels"]) == ["negative", "neutral", "positive"]


def test_codes_without_a_plan_are_refused(exported: Any, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="without a plan"):
        lowered(exported("bert", Task.SENTENCE_EMBEDDING), tmp_path, "int8")
