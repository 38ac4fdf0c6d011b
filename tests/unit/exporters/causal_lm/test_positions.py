"""Rotary tables that are constant up to some length, and what is refused beyond it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.errors import ConfigError, ModelError
from edgeq.exporters import check_headers, inspect_model, load_model
from edgeq.exporters.causal_lm import load_language_model, open_original
from edgeq.exporters.causal_lm.facts import context_length
from edgeq.exporters.causal_lm.genai_config import usual_length
from edgeq.exporters.causal_lm.text import tokens_beyond
from edgeq.families.positions import constant_positions, rope_type
from edgeq.runtime.generation.settings import CacheShape, GenerationSettings

LONG: dict[str, Any] = {
    "rope_scaling": {
        "rope_type": "longrope",
        "short_factor": [1.0 + index / 20 for index in range(8)],
        "long_factor": [2.0 + index / 5 for index in range(8)],
        "rope_theta": 10000.0,
    },
    "original_max_position_embeddings": 64,
}


def test_up_to_where_a_table_is_constant() -> None:
    phi: dict[str, Any] = {"model_type": "phi3", "max_position_embeddings": 131072}
    assert constant_positions(phi) is None
    # The first releases name the type `su`, and leave the original context to the class.
    assert rope_type(phi | {"rope_scaling": {"type": "su"}}) == "longrope"
    assert constant_positions(phi | {"rope_scaling": {"type": "su"}}) == 4096
    assert constant_positions(phi | LONG) == 64
    llama = {"model_type": "llama", "max_position_embeddings": 4096}
    assert constant_positions(llama | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}) is None
    by_kind = {"full_attention": {"rope_type": "linear"}, "sliding_attention": {"rope_type": "default"}}
    assert rope_type({"model_type": "gemma3_text", "rope_parameters": by_kind}) == "linear"


def test_the_context_that_fits() -> None:
    config = {"model_type": "phi3", "max_position_embeddings": 128} | LONG
    assert context_length(config, 64) == 64
    for asked in (None, 65, 128):
        with pytest.raises(ModelError, match="others for texts of more than 64 tokens") as found:
            context_length(config, asked)
        assert found.value.hint == "--seq-len 64"
    with pytest.raises(ConfigError, match="--seq-len 129 does not fit"):
        context_length(config, 129)


def test_longrope_inside_the_original_context(tiny_decoders: Any, tmp_path: Path) -> None:
    """The traced graph against the original, whose forward chooses the table by the length of the text."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = tiny_decoders.build_tiny_decoder(tmp_path, "phi3", **LONG)
    exported = load_language_model(folder, context=64)
    assert (exported.graph_source, exported.settings.context_length) == ("torch", 64)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = np.random.default_rng(1).integers(0, 256, (1, 100))
    with torch.no_grad():
        short, long = (model(torch.from_numpy(ids[:, :size])).logits[0].numpy() for size in (60, 100))
    np.testing.assert_allclose(exported.reference(ids[:, :60])[0], short, atol=1e-4 * np.abs(short).max())
    # The negative twin: beyond the original context the same tokens have other positions.
    assert np.abs(long[:60] - short).max() > 0.01 * np.abs(short).max()


def test_yarn_is_constant(tiny_decoders: Any, tmp_path: Path) -> None:
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 10000.0}
    exported = load_language_model(tiny_decoders.build_tiny_decoder(tmp_path, rope_parameters=rope))
    assert (exported.graph_source, exported.settings.context_length) == ("torch", 128)


def test_phi_as_it_was_published(tiny_decoder: Callable[..., Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_decoder("phi3"), tmp_path / "model"))
    path = folder / "config.json"
    code = {
        "AutoConfig": "configuration_phi3.Phi3Config",
        "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": code}))
    for name in ("configuration_phi3.py", "modeling_phi3.py"):
        (folder / name).write_text("raise SystemExit('code of the repository was run')")
    said = check_headers(inspect_model(folder), None)
    assert len(said) == 1 and "is not run: transformers has `Phi3ForCausalLM`" in said[0]
    assert open_original(folder).notices == said


def test_an_unsupported_family_gets_no_hint_that_leads_nowhere(
    tiny_decoder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_decoder("llama"), tmp_path / "model"))
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"model_type": "phi", "architectures": ["PhiForCausalLM"]}))
    refusal = inspect_model(folder).refusal
    assert refusal is not None and "`phi` are not supported" in refusal.message and refusal.hint is None


def test_the_language_model_of_a_checkpoint_of_images_and_text(tiny_decoders: Any, tmp_path: Path) -> None:
    import torch
    import transformers

    vision = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    text = tiny_decoders.FAMILIES["gemma3_text"][1]
    settings = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    torch.manual_seed(0)
    model = transformers.Gemma3ForConditionalGeneration(settings).eval()
    model.save_pretrained(tmp_path)
    tiny_decoders.write_byte_tokenizer(tmp_path)
    original = open_original(tmp_path)
    ids = np.random.default_rng(0).integers(0, 256, (1, 30))
    with torch.no_grad():
        expected = model(input_ids=torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(original.reference(ids), expected, atol=1e-4 * np.abs(expected).max())
    assert "the language model alone is taken (gemma3_text)" in original.notices[0]
    assert original.notices == check_headers(inspect_model(tmp_path), None)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for named, is_needed in (
        ("Gemma3ForConditionalGeneration", False),
        ("MyGemmaForConditionalGeneration", True),
    ):
        code = {"AutoModelForImageTextToText": f"modeling.{named}"}
        path.write_text(json.dumps(config | {"architectures": [named], "auto_map": code}))
        refusal = inspect_model(tmp_path).refusal
        assert ("needs code of its own" in str(refusal)) is is_needed
    path.write_text(json.dumps(config | {"model_type": "paligemma"}))
    with pytest.raises(ModelError, match="`paligemma` reads images and text, its text part is `gemma3_text`"):
        inspect_model(tmp_path).require_supported()
    with pytest.raises(ModelError, match="reads images and text"):
        load_model(tmp_path)


def test_tokens_that_have_no_row() -> None:
    assert tokens_beyond({"a": 0, "b": 1}, 2) == ()
    assert (
        "has 2 tokens that the model has no embedding for, first '<x>' (2;"
        in tokens_beyond({"a": 0, "<y>": 3, "<x>": 2}, 2)[0]
    )


def test_genai_is_not_asked_for_the_whole_context() -> None:
    settings = GenerationSettings(131072, 10, (), CacheShape(1, 1, 16))
    assert usual_length(settings, None) == 4096
    assert usual_length(settings, 131072) == 131072
    assert usual_length(GenerationSettings(256, 10, (), CacheShape(1, 1, 16)), None) == 256
