"""Files of every family: written, read back by the `gguf` package, and the same model again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.errors import DataError, ModelError, UnsupportedError
from edgeq.families import FAMILIES
from edgeq.families.rope import rope_factors
from edgeq.quantize.weight_only import LayerStats
from edgeq.targets.gguf.target import TARGET
from edgeq.targets.gguf.tensors import architecture_of, family_of, ignored_window, plan_tensors
from edgeq.targets.gguf.writer import evidence_of, write_gguf
from edgeq.targets.target import VariantSpec

gguf = pytest.importorskip("gguf")

Open = Callable[..., Any]


def metadata(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


def types(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}


def back(model: Any, path: Path) -> Any:
    """The logits of the model that a file stands for."""
    return model.original.with_weights(TARGET.read_back(path, model.original.config, model.shapes))


def largest_error(model: Any, other: Any) -> float:
    ids = np.random.default_rng(1).integers(0, 256, (1, 40))
    expected = model.original.reference(ids)
    return float(np.abs(other(ids) - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_float_file_is_the_same_model(family: str, opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "f32.gguf"
    model = opened(family)
    assert write_gguf(model.source, "f32", path) == [] or family == "qwen2"
    # Gemma's norms are stored plus one, in float32.
    assert largest_error(model, back(model, path)) <= (1e-5 if "gemma" in family else 0)
    assert set(model.shapes) == set(TARGET.read_back(path, model.original.config, model.shapes))
    found = metadata(path)
    assert found["general.architecture"] == family_of(family).name
    # llama.cpp refuses vocabularies without Phi-3's tokens in a file of that name.
    assert found["general.name"] == f"tiny-{family.replace('phi3', 'phi 3')}"
    assert found["general.file_type"] == 0


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "gpt2"])
def test_quantized_files_are_near_the_model(family: str, opened: Open, tmp_path: Path) -> None:
    model = opened(family)
    errors = {}
    for kind in ("q8_0", "q5_0", "q4_0"):
        path = tmp_path / f"{kind}.gguf"
        write_gguf(model.source, kind, path)
        errors[kind] = largest_error(model, back(model, path))
    assert 0 < errors["q8_0"] < 0.03 < errors["q4_0"] < 0.6
    assert errors["q8_0"] < errors["q5_0"] < errors["q4_0"]


def test_what_llama_cpp_rotates_is_reordered(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "f32.gguf"
    model = opened("llama")
    write_gguf(model.source, "f32", path)
    stored = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}["blk.0.attn_q.weight"]
    own = np.concatenate(list(model.original.tensors["model.layers.0.self_attn.q_proj.weight"].rows()))
    # Head 0 has 16 rows: rows 0 and 8 rotate together, and stand side by side in the file.
    np.testing.assert_array_equal(stored[0], own[0])
    np.testing.assert_array_equal(stored[1], own[8])
    assert not np.array_equal(stored[1], own[1])


def test_metadata_of_a_llama(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "f32.gguf"
    model = opened("llama")
    write_gguf(model.source, "f32", path)
    found = metadata(path)
    expected = {
        "llama.block_count": 2,
        "llama.context_length": 128,
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 96,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.rope.dimension_count": 16,
        "llama.rope.freq_base": 10000.0,
        "llama.vocab_size": 288,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.bos_token_id": 256,
        "tokenizer.ggml.eos_token_id": 257,
        "tokenizer.ggml.padding_token_id": 258,
        "tokenizer.ggml.eot_token_id": 259,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }
    assert {name: found[name] for name in expected} == expected
    assert found["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-6)
    assert "<|im_start|>" in found["tokenizer.chat_template"]
    assert len(found["tokenizer.ggml.tokens"]) == 288 and found["tokenizer.ggml.merges"][0] == "h e"


def test_types_and_notes(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "q4_k_m.gguf"
    model = opened("llama", hidden_size=256, intermediate_size=320)
    (note,) = write_gguf(model.source, "q4_k_m", path)
    found = types(path)
    assert found["output.weight"] == found["blk.1.attn_v.weight"] == "Q6_K"
    assert found["blk.0.attn_q.weight"] == found["token_embd.weight"] == "Q4_K"
    assert found["blk.0.ffn_down.weight"] == "Q5_0" and found["blk.0.attn_norm.weight"] == "F32"
    assert "2 of 16 matrices have rows that are no multiple of 256" in note and "Q5_0" in note


def test_a_tied_table_is_stored_once_as_the_head(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "q4_0.gguf"
    model = opened("llama", tie_word_embeddings=True, hidden_size=256)
    write_gguf(model.source, "q4_0", path)
    assert largest_error(model, back(model, path)) < 0.6
    assert types(path)["token_embd.weight"] == "Q6_K" and "output.weight" not in types(path)


def test_the_same_input_gives_the_same_bytes(opened: Open, tmp_path: Path) -> None:
    model = opened("gemma2")
    for name in ("a", "b"):
        write_gguf(model.source, "q4_1", tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_llama_3_frequencies(opened: Open, tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    path = tmp_path / "f32.gguf"
    model = opened("llama")
    config = dict(model.original.config) | {"rope_parameters": scaling}
    factors = rope_factors(config)
    assert factors is not None and rope_factors(model.original.config) is None
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    built = LlamaConfig(hidden_size=64, num_attention_heads=4, rope_parameters=scaling)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](built, "cpu")
    plain = 10000.0 ** (-np.arange(0, 16, 2) / 16)
    np.testing.assert_allclose(plain / factors, scaled.numpy(), rtol=1e-6)
    write_gguf(_with_config(model.source, config), "f32", path)
    assert types(path)["rope_freqs.weight"] == "F32"


def _with_config(source: Any, config: dict[str, Any]) -> Any:
    from dataclasses import replace

    return replace(source, config=config)


def test_windows(opened: Open, tmp_path: Path) -> None:
    model = opened("mistral")
    spec = VariantSpec("gguf-f16", "gguf", "fp16", "llama.cpp", "CPU", "any")
    lowered = TARGET.write(spec, model.source, tmp_path)
    assert ignored_window(model.original.config) == 16
    assert lowered.model.name == "tiny-mistral-F16.gguf"
    assert "the original 16 tokens" in lowered.notes[0]
    model = opened("gemma3_text")
    write_gguf(model.source, "f32", tmp_path / "gemma3.gguf")
    assert ignored_window(model.original.config) is None
    kinds = ["full_attention", "sliding_attention"]
    config = dict(model.original.config) | {"layer_types": kinds}
    write_gguf(_with_config(model.source, config), "f32", tmp_path / "other.gguf")
    assert metadata(tmp_path / "gemma3.gguf")["gemma3.attention.sliding_window"] == 16
    assert "gemma3.attention.sliding_window_pattern" not in metadata(tmp_path / "gemma3.gguf")
    assert metadata(tmp_path / "other.gguf")["gemma3.attention.sliding_window_pattern"] == [False, True]


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("llama", {"hidden_act": "gelu"}, "hidden_act"),
        ("gemma2", {"query_pre_attn_scalar": 100}, "query_pre_attn_scalar"),
        ("gpt2", {"activation_function": "relu"}, "activation_function"),
        ("llama", {"model_type": "mamba"}, "no GGUF files for `mamba`"),
    ],
)
def test_what_llama_cpp_would_run_as_something_else_is_refused(
    family: str, change: dict[str, Any], message: str, opened: Open, tmp_path: Path
) -> None:
    model = opened(family)
    architecture_of(model.original.config)
    with pytest.raises(UnsupportedError, match=message):
        write_gguf(
            _with_config(model.source, dict(model.original.config) | change), "f32", tmp_path / "x.gguf"
        )
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize("largest", [65504.0, 70000.0])
def test_values_that_float16_does_not_reach(largest: float, opened: Open, tmp_path: Path) -> None:
    from dataclasses import replace

    from safetensors.numpy import save_file

    from edgeq.quantize.streaming import Checkpoint

    name = "model.layers.0.mlp.up_proj.weight"
    model = opened("llama")
    values = np.zeros(model.shapes[name], np.float32)
    values[1, 2] = -largest
    save_file({name: values}, tmp_path / "model.safetensors")
    stored = Checkpoint.open(tmp_path)[name]
    source = replace(model.source, tensors={**model.source.tensors, name: stored})
    write_gguf(source, "bf16", tmp_path / "bf16.gguf")
    if largest == 65504:
        write_gguf(source, "f16", tmp_path / "f16.gguf")
        return
    with pytest.raises(ModelError, match=r"up_proj.weight` has values up to 7e\+04, float16 reaches 65504"):
        write_gguf(source, "f16", tmp_path / "f16.gguf")


def test_unknown_parameters_are_refused(opened: Open) -> None:
    model = opened("llama")
    with pytest.raises(UnsupportedError, match=r"no tensor for `model.layers.0.x.weight`"):
        plan_tensors({"model.layers.0.x.weight": (4, 4)}, model.original.config, "f32")


def test_a_damaged_file_and_one_of_another_model(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "f32.gguf"
    model = opened("llama")
    write_gguf(model.source, "f32", path)
    data = path.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.gguf").write_bytes(b"no GGUF at all")
    for name in ("cut.gguf", "text.gguf"):
        with pytest.raises(ModelError, match="cannot be read as GGUF"):
            TARGET.read_back(tmp_path / name, model.original.config, model.shapes)
    other = {name: shape for name, shape in model.shapes.items() if "norm" not in name}
    with pytest.raises(ModelError, match="tensors, expected"):
        TARGET.read_back(path, model.original.config, other)


def test_too_few_calibration_tokens_are_said(opened: Open, tmp_path: Path) -> None:
    from dataclasses import replace

    model = opened("llama")
    few = np.random.default_rng(0).integers(0, 256, (3, 32))
    source = replace(model.source, observe=lambda names, gram: model.original.observe(names, few, gram=gram))
    (note,) = write_gguf(source, "q4_0", tmp_path / "few.gguf")
    # 96 tokens: too few for 64 inputs, and for the 96 of the down projections.
    assert note.startswith("15 matrices are rounded to the nearest codes") and "192 for the widest" in note
    assert write_gguf(model.source, "q4_0", tmp_path / "enough.gguf") == []
    assert (tmp_path / "few.gguf").read_bytes() != (tmp_path / "enough.gguf").read_bytes()


def test_inputs_that_are_zero_or_not_finite() -> None:
    zero = LayerStats(np.zeros(4, np.float32), 100, np.zeros((4, 4)))
    assert evidence_of(zero).hessian is None and (evidence_of(zero).importance == 1).all()
    good = LayerStats(np.ones(4, np.float32), 100, 100 * np.eye(4))
    assert evidence_of(good).hessian is not None
    with pytest.raises(DataError, match=r"NaN|finite"):
        evidence_of(LayerStats(np.full(4, np.nan, np.float32), 100, np.full((4, 4), np.nan)))
