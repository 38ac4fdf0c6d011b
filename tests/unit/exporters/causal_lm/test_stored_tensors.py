"""Every tensor of a checkpoint is used or named; the reference is the model that transformers itself loads and runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edgeq.errors import ModelError
from edgeq.exporters import check_headers, inspect_model
from edgeq.exporters.causal_lm import load_language_model, load_original, open_original
from edgeq.exporters.causal_lm.own_library import check_reference

IDS = np.random.default_rng(0).integers(0, 256, (1, 24))
TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"
Change = Callable[[dict[str, np.ndarray]], None]


@pytest.fixture
def copy(tiny_decoder: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A tiny Llama whose tensors and config a test changes."""

    def build(
        change: Change = lambda _: None, config: dict[str, Any] | None = None, **made_with: Any
    ) -> Path:
        folder = Path(shutil.copytree(tiny_decoder("llama", **made_with), tmp_path / "model"))
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | (config or {})))
        return folder

    return build


def of_transformers(folder: Path) -> np.ndarray:
    """Logits of the folder as `from_pretrained` loads it, with no help of edgeq."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        found: np.ndarray = model(torch.from_numpy(IDS)).logits.numpy()
    return found


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def own_head(tensors: dict[str, np.ndarray]) -> None:
    noise = np.random.default_rng(5).normal(0, 1, tensors[TABLE].shape).astype(np.float32)
    tensors[HEAD] = tensors[TABLE] * 0.5 + noise


@pytest.mark.parametrize("road", ["builder", "torch"])
def test_a_head_of_its_own_beside_a_tied_config(copy: Callable[..., Path], road: str) -> None:
    folder = copy(own_head, tie_word_embeddings=True)
    if road == "builder":
        pytest.importorskip("onnxruntime_genai")
    exported = load_language_model(folder, road=road)
    expected = of_transformers(folder)
    assert_same(exported.reference(IDS), expected)
    assert "has its own `lm_head.weight`" in exported.notices[0]
    # The negative twin: what a tied head gives is another model.
    with_table = load_original(copy_without_head(folder))(IDS)
    assert np.abs(with_table - expected).max() > 0.1 * np.abs(expected).max()


def copy_without_head(folder: Path) -> Path:
    other = Path(shutil.copytree(folder, folder.with_name("tied")))
    tensors = load_file(other / "model.safetensors")
    del tensors[HEAD]
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    return other


def test_a_copy_of_the_table_stays_tied(copy: Callable[..., Path]) -> None:
    folder = copy(lambda tensors: tensors.update({HEAD: tensors[TABLE].copy()}), tie_word_embeddings=True)
    original = open_original(folder)
    assert HEAD not in original.tensors and original.notices == ()
    assert_same(original.reference(IDS), of_transformers(folder))


def test_biases_that_the_config_has_no_place_for(copy: Callable[..., Path]) -> None:
    folder = copy(config={"attention_bias": False}, attention_bias=True)
    for refuse in (lambda: open_original(folder), lambda: check_headers(inspect_model(folder), None)):
        with pytest.raises(
            ModelError, match=r"holds 8 tensors .* first `model\.layers\.0\.self_attn\.k_proj\.bias`"
        ) as found:
            refuse()
        assert found.value.hint is not None and '"attention_bias": true' in found.value.hint


def test_the_hint_about_biases_works(copy: Callable[..., Path]) -> None:
    folder = copy(attention_bias=True)
    assert_same(open_original(folder).reference(IDS), of_transformers(folder))


def test_what_is_harmless_and_what_is_named(copy: Callable[..., Path]) -> None:
    def add(tensors: dict[str, np.ndarray]) -> None:
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float32)
        tensors["model.layers.0.mlp.up_proj.bias"] = np.zeros(96, np.float32)
        tensors |= {f"model.layers.2.{part}.weight": np.ones(4, np.float32) for part in "abcd"}
        tensors["v_head.weight"] = np.ones(4, np.float32)

    folder = copy(add)
    said = open_original(folder).notices
    assert said == check_headers(inspect_model(folder), None)
    assert said == (
        "5 stored tensors have no place in the model and are not used: `model.layers.2.*` (4), `v_head.*` (1)",
    )


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "base_model.model.", "module._orig_mod."])
def test_wrappers_are_stripped(
    copy: Callable[..., Path], tiny_decoder: Callable[..., Path], prefix: str
) -> None:
    def wrap(tensors: dict[str, np.ndarray]) -> None:
        for name in list(tensors):
            tensors[prefix + name] = tensors.pop(name)

    original = open_original(copy(wrap))
    assert_same(original.reference(IDS), of_transformers(tiny_decoder("llama")))
    assert "names of weights are taken without" in original.notices[0]


def test_adapters_that_are_not_merged(copy: Callable[..., Path]) -> None:
    def add(tensors: dict[str, np.ndarray]) -> None:
        tensors["model.layers.0.self_attn.q_proj.lora_A.default.weight"] = np.ones((4, 64), np.float32)

    with pytest.raises(ModelError, match="adapter that is not merged"):
        open_original(copy(add))


def test_a_reference_that_is_not_the_original(copy: Callable[..., Path]) -> None:
    folder = copy()
    original = open_original(folder)
    reference, weights = original.reference, original.weights
    for is_small in (True, False):
        check_reference(folder, weights, reference, is_small=is_small)
    with pytest.raises(ModelError, match="does not compute what the original does: the logits of `generate`"):
        check_reference(folder, weights, lambda ids: reference(ids) * np.float32(1.01), is_small=True)
    other = weights.tensors | {HEAD: weights[TABLE]}
    with pytest.raises(ModelError, match=r"what the original does: `lm_head\.weight` in the file"):
        check_reference(folder, replace(weights, tensors=other), reference, is_small=False)


def test_headers_of_a_language_model(copy: Callable[..., Path]) -> None:
    folder = copy()
    facts = inspect_model(folder)
    assert check_headers(facts, 64) == ()
    weights = folder / "model.safetensors"
    tensors, whole = load_file(weights), weights.read_bytes()
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=r"no weights for 1 tensors, first model\.layers\.1\.mlp\.up_proj\.weight"
    ):
        check_headers(facts, None)
    weights.write_bytes(whole[:-4])
    with pytest.raises(ModelError, match="corrupted or truncated"):
        check_headers(facts, None)
    weights.unlink()
    with pytest.raises(ModelError, match="no weights in"):
        check_headers(facts, None)
