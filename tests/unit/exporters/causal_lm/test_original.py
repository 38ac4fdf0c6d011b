"""A model without a graph: other weights in its place, and what its layers read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.errors import ConfigError, ModelError
from edgeq.exporters.causal_lm import open_original
from edgeq.exporters.causal_lm import streamed_forward as forward
from edgeq.exporters.causal_lm.original import module_of
from edgeq.quantize.streaming.stacked_rows import values_of

IDS = np.random.default_rng(0).integers(0, 256, (3, 24))
DOWN = "model.layers.1.mlp.down_proj.weight"
Decoder = Callable[..., Path]


def all_values(original: Any) -> dict[str, np.ndarray]:
    return {name: np.array(values_of(tensor)) for name, tensor in original.tensors.items()}


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("resident", [0, 1 << 30])
def test_the_same_weights_give_the_same_logits(
    family: str, resident: int, tiny_decoder: Decoder, whole_models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "RESIDENT_BYTES", resident)
    original = open_original(tiny_decoder(family))
    expected = whole_models.logits_of(whole_models.load_decoder(tiny_decoder(family)), IDS)
    np.testing.assert_allclose(original.reference(IDS), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    same = original.with_weights(all_values(original))
    np.testing.assert_array_equal(same(IDS), original.reference(IDS))


@pytest.mark.parametrize("name", [DOWN, "model.norm.weight", "model.embed_tokens.weight", "lm_head.weight"])
def test_other_weights_stand_beside_the_original(name: str, tiny_decoder: Decoder, whole_models: Any) -> None:
    import torch

    folder = tiny_decoder("llama")
    original = open_original(folder)
    before = original.reference(IDS)
    changed = -all_values(original)[name]
    found = original.with_weights({name: changed})(IDS)
    whole = whole_models.load_decoder(folder)
    with torch.no_grad():
        whole.get_parameter(name).copy_(torch.from_numpy(changed))
    expected = whole_models.logits_of(whole, IDS)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(original.reference(IDS), before)
    assert np.abs(found - before).max() > 0.01 * np.abs(before).max()


def test_a_tied_table_is_replaced_in_both_places(tiny_decoder: Decoder) -> None:
    original = open_original(tiny_decoder("llama", tie_word_embeddings=True))
    assert "lm_head.weight" not in original.tensors
    table = all_values(original)["model.embed_tokens.weight"]
    doubled = original.with_weights({"model.embed_tokens.weight": 2 * table})(IDS)
    # Normalization takes the factor out of the input, and the head puts it into the output.
    assert np.abs(doubled).max() > 1.5 * np.abs(original.reference(IDS)).max()
    head = module_of(original.model, "model.embed_tokens.weight")
    assert head is original.model.lm_head


def test_inputs_are_rounded_where_that_is_asked_for(tiny_decoder: Decoder) -> None:
    original = open_original(tiny_decoder("llama"))
    nothing = original.with_weights({}, {DOWN: lambda rows: rows})
    np.testing.assert_array_equal(nothing(IDS), original.reference(IDS))
    zero = original.with_weights({}, {DOWN: np.zeros_like})(IDS)
    gone = original.with_weights({DOWN: np.zeros(original.tensors[DOWN].shape, np.float32)})(IDS)
    np.testing.assert_array_equal(zero, gone)
    assert not np.array_equal(zero, original.reference(IDS))


@pytest.mark.parametrize("name", [DOWN, "model.norm.weight"])
def test_a_wrong_shape_is_refused(name: str, tiny_decoder: Decoder) -> None:
    original = open_original(tiny_decoder("llama"))
    with pytest.raises(ModelError, match=r"has shape .* got \(3, 3\)"):
        original.with_weights({name: np.zeros((3, 3), np.float32)})(IDS)
    with pytest.raises(ModelError, match="no parameter `x`"):
        original.with_weights({"x": np.zeros(3, np.float32)})


def test_statistics_are_those_of_the_layers_inputs(tiny_decoder: Decoder, whole_models: Any) -> None:
    folder = tiny_decoder("llama")
    original, whole = open_original(folder), whole_models.load_decoder(folder)
    seen: list[np.ndarray] = []
    whole.model.layers[1].mlp.down_proj.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].reshape(-1, inputs[0].shape[-1]).numpy())
    )
    whole_models.logits_of(whole, IDS)
    q, k = (f"model.layers.0.self_attn.{part}_proj.weight" for part in "qk")
    found = original.observe([q, k, DOWN], IDS, gram=True)
    rows = np.concatenate(seen).astype(np.float64)
    assert found[DOWN].tokens == len(rows) == IDS.size and found[DOWN].gram is not None
    np.testing.assert_allclose(found[DOWN].mean_square, np.square(rows).mean(0), rtol=1e-4)
    np.testing.assert_allclose(found[DOWN].gram, rows.T @ rows, atol=1e-4 * np.square(rows).sum(0).max())
    assert found[q] is found[k] and found[q] is not found[DOWN]
    assert original.observe([DOWN], IDS, gram=False)[DOWN].gram is None


def test_a_context_longer_than_the_models_is_refused(tiny_decoder: Decoder) -> None:
    with pytest.raises(ConfigError, match="does not fit"):
        open_original(tiny_decoder("llama"), context=4096)
    assert open_original(tiny_decoder("llama"), context=64).settings.context_length == 64


def test_a_gguf_file_and_its_files_while_it_is_needed(
    tiny_decoder: Decoder, gguf_files: Any, tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    path = gguf_files.write_gguf(tmp_path / "m.gguf", tiny_decoder("llama"), "F32")
    original = open_original(path)
    folder = original.weights.folder
    assert folder.exists() and [file.path for file in original.source.files] == ["m.gguf"]
    expected = open_original(tiny_decoder("llama")).reference(IDS)
    np.testing.assert_allclose(original.reference(IDS), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    del original
    import gc

    gc.collect()
    assert not folder.exists()
