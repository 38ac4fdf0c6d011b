"""Layers of a language model one by one: the same pass as for encoders, over windows with an empty cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.calibration import CalibrationData, load_samples
from edgeq.errors import DataError, UnsupportedError
from edgeq.exporters.causal_lm import ExportedLanguageModel, load_language_model
from edgeq.metrics import kl_divergences
from edgeq.pipeline import sensitivity as pipeline_sensitivity
from edgeq.pipeline.generation.data import divide_language, text_counts, token_ids
from edgeq.pipeline.generation.measure import golden_prompts
from edgeq.pipeline.originals import Windows, take_in
from edgeq.pipeline.quantizing import Quantized, quantize_model
from edgeq.pipeline.sensitivity import sensitivity_of
from edgeq.processors.prompts import PromptTokenizer
from edgeq.progress import SilentProgress
from edgeq.quantize.layers import find_layers
from edgeq.quantize.recipes import load_recipe
from edgeq.quantize.sensitivity import LayerEffect
from edgeq.quantize.shell import Shell
from edgeq.samples import Text
from edgeq.tasks import entry as entry_module
from edgeq.types import Feeds, Task


@pytest.fixture(scope="module")
def model(tiny_decoder: Callable[..., Path]) -> ExportedLanguageModel:
    """Tied: its table is also the head."""
    return load_language_model(str(tiny_decoder("llama", tie_word_embeddings=True)))


@pytest.fixture(scope="module")
def sets(model: ExportedLanguageModel) -> Any:
    return divide_language(load_samples(None, count=40), model, 24).sets


@pytest.fixture(scope="module")
def quantized(model: ExportedLanguageModel, sets: Any) -> Quantized:
    return quantize_model(model.canonical, sets, load_recipe("int4"), SilentProgress())


@pytest.fixture(scope="module")
def effects(
    model: ExportedLanguageModel,
    sets: Any,
    quantized: Quantized,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[LayerEffect]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEQ_CACHE", str(tmp_path_factory.mktemp("cache")))
        return sensitivity_of(model.head, quantized, sets, SilentProgress())


def test_every_quantized_weight_is_ranked_by_what_it_costs(
    effects: list[LayerEffect], quantized: Quantized
) -> None:
    assert quantized.plan is not None
    assert {effect.name for effect in effects} == {item.name for item in quantized.plan.weights}
    assert [effect.loss for effect in effects] == sorted((effect.loss for effect in effects), reverse=True)
    assert all(effect.loss_name == "KL divergence" and effect.loss == effect.kl for effect in effects)
    assert effects[0].loss > 0
    assert any(effect.causes.kurtosis is not None for effect in effects)


def test_the_loss_is_the_divergence_of_the_original_with_that_weight(
    model: ExportedLanguageModel, sets: Any, quantized: Quantized, effects: list[LayerEffect], tmp_path: Path
) -> None:
    import onnxruntime as ort

    layers = find_layers(model.canonical.model)
    found = next(effect for effect in effects if effect.name.endswith("down_proj"))
    changed = model.canonical.model.clone()
    value = changed.graph.initializers[layers.initializers[found.name]]
    weight = quantized.rounded_weights()[found.name]
    stored = weight if tuple(value.shape.numpy()) == weight.shape else weight.T
    value.const_value = ir.tensor(np.ascontiguousarray(stored), name=value.name)
    ir.save(changed, tmp_path / "changed.onnx")
    session = ort.InferenceSession(str(tmp_path / "changed.onnx"), providers=["CPUExecutionProvider"])

    divergences: list[float] = []
    for feeds in sets.search:
        (logits,) = session.run(["logits"], dict(feeds))
        divergences += kl_divergences(model.run(feeds)["logits"][0], logits[0]).tolist()
    assert found.kl == pytest.approx(np.mean(divergences), rel=0.02)


def test_logits_are_compared_some_tokens_at_a_time(
    model: ExportedLanguageModel, sets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    feeds: Feeds = sets.search[0]
    expected = model.run(feeds)
    moved = {"logits": expected["logits"] + np.linspace(0, 1, expected["logits"].shape[2], dtype=np.float32)}

    def metrics() -> dict[str, float]:
        comparisons = model.head.compare_each()
        model.head.compare_batch(comparisons, expected, moved, feeds["attention_mask"])
        return comparisons[0].metrics()

    whole = metrics()
    monkeypatch.setattr(entry_module, "COMPARED_VALUES", 1000)
    assert metrics() == pytest.approx(whole, rel=1e-12)
    assert whole["n"] == feeds["input_ids"].size


def test_weights_are_computed_one_at_a_time(quantized: Quantized) -> None:
    weights = quantized.rounded_weights()
    name = next(iter(weights))
    assert weights[name] is not weights[name]
    np.testing.assert_array_equal(weights[name], weights.only([name])[name])


def test_a_model_that_memory_does_not_hold_is_refused(
    model: ExportedLanguageModel, sets: Any, quantized: Quantized, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_sensitivity, "free_memory", lambda: 1000)
    with pytest.raises(UnsupportedError, match="with all weights in memory as float32, which takes 0"):
        sensitivity_of(model.head, quantized, sets, SilentProgress())


def test_held_out_windows_share_no_token_and_are_few(model: ExportedLanguageModel, sets: Any) -> None:
    divided = divide_language(load_samples(None, count=40), model, 24)
    running = [int(token) for window in divided.windows for token in window.ids[window.first_scored :]]
    measured = [int(token) for feeds in sets.search for token in feeds["input_ids"][0]]
    assert len(measured) <= 2048
    assert measured[1:] == running[: len(measured) - 1]


def test_texts_become_windows_with_an_empty_cache(model: ExportedLanguageModel) -> None:
    windows = Windows(model)
    feeds = windows.judged([Text("A text that is long enough to be cut. " * 20)])
    assert len({batch["input_ids"].shape for batch in feeds}) == 1
    assert all(batch["past_key_values.0.key"].shape[2] == 0 for batch in feeds)
    assert Shell(model.canonical.model, find_layers(model.canonical.model), ["logits"]).outputs == ["logits"]
    with pytest.raises(DataError, match="predicts nothing"):
        windows.judged([])


def test_a_model_is_taken_in_as_its_task_is_run(
    tiny_decoder: Callable[..., Path], tiny_model: Callable[..., Path]
) -> None:
    decoder = take_in(str(tiny_decoder("llama", tie_word_embeddings=True)), Task.TEXT_GENERATION)
    encoder = take_in(str(tiny_model("bert", Task.SENTENCE_EMBEDDING)), Task.SENTENCE_EMBEDDING)
    assert decoder.head.entry.is_autoregressive and not encoder.head.entry.is_autoregressive
    for original in (decoder, encoder):
        feeds = original.feeder.judged([Text("The cat sat on the mat."), Text("A dog ran after it.")])
        found = original.run(feeds[0])
        assert {spec.name for spec in original.head.outputs} <= set(found)


def test_ready_tensors_are_divided_as_the_texts_they_came_from(model: ExportedLanguageModel) -> None:
    texts = [f"Once there was a cat called number {index}, who slept. " * 4 for index in range(16)]
    ids = token_ids(PromptTokenizer(model.preprocessor.tokenizer_json), texts, model.settings.vocabulary)
    width = max(map(len, ids))
    feeds = {
        "input_ids": np.stack([np.pad(row, (0, width - len(row))) for row in ids]),
        "attention_mask": np.stack([np.arange(width) < len(row) for row in ids]),
    }
    by_text = divide_language(CalibrationData(tuple(map(Text, texts)), "texts", "", 16), model, 8)
    found = divide_language(CalibrationData((), "t.npz", "", 16, feeds), model, 8)
    np.testing.assert_array_equal(found.calibration, by_text.calibration)
    for one, other in zip(found.windows, by_text.windows, strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
    assert (
        found.sets.calibration_samples == by_text.sets.calibration_samples
        and found.prompts == by_text.prompts
    )
    assert found.sets.texts == () and set(found.prompt_texts) == {""}
    assert text_counts(CalibrationData((), "t.npz", "", 16, feeds), 8) == (4, 8)
    assert all(text == () for _, text in golden_prompts(found, 24, model.settings.vocabulary))
