"""GGUF files as models: weights, config and tokens of the folder they were made from; codes without a change."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.errors import ModelError
from edgeq.exporters.gguf import inspect_gguf, unpack
from edgeq.families import FAMILIES
from edgeq.families.rope import llama3_factors

gguf = pytest.importorskip("gguf")

READ = [name for name, family in FAMILIES.items() if family.gguf.is_read]
TEXTS = ["Once upon a time", " two  spaces", "", "naïve 日本", "<s> x </s>"]


def logits(folder: Path) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM

    from edgeq.exporters.checkpoint import quiet_transformers

    with quiet_transformers(), torch.no_grad():
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
        assert not info["missing_keys"] and not info["unexpected_keys"]
        return model.eval()(torch.arange(80).reshape(2, 40)).logits.numpy()


@pytest.mark.parametrize("family", READ)
def test_the_same_model_as_the_folder(
    family: str, tiny_decoder: Callable[..., Path], gguf_files: Any, tmp_path: Path
) -> None:
    folder = tiny_decoder(family)
    path = gguf_files.write_gguf(tmp_path / "m.gguf", folder)
    facts = inspect_gguf(path)
    assert (facts.architecture, facts.refusal, facts.quantized) == (family, None, None)
    (tmp_path / "out").mkdir()
    unpacked = unpack(path, tmp_path / "out")
    assert unpacked.packed is None
    expected, found = logits(folder), logits(unpacked.folder)
    # Norms of Gemma are stored plus one: one rounding of each of their values.
    atol = 1e-5 * np.abs(expected).max() if family.startswith("gemma") else 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("family", "pattern", "full"),
    [
        ("gemma2", None, [False, True]),
        ("gemma2", [False, True], [True, False]),
        ("gemma3_text", None, [False, False]),
        ("gemma3_text", [False, True], [True, False]),
        ("gemma3_text", 2, [False, True]),
    ],
)
def test_layers_with_windows_are_those_the_file_names(
    family: str,
    pattern: Any,
    full: list[bool],
    tiny_decoder: Callable[..., Path],
    gguf_files: Any,
    tmp_path: Path,
) -> None:
    kinds = ["full_attention" if is_full else "sliding_attention" for is_full in full]
    folder = shutil.copytree(tiny_decoder(family), tmp_path / "folder")
    config = json.loads((folder / "config.json").read_text()) | {"layer_types": kinds}
    (folder / "config.json").write_text(json.dumps(config))
    key = f"{family.removesuffix('_text')}__attention__sliding_window_pattern"
    path = gguf_files.write_gguf(tmp_path / "m.gguf", folder, **{key: pattern})
    assert inspect_gguf(path).config["layer_types"] == kinds
    (tmp_path / "out").mkdir()
    expected, found = logits(folder), logits(unpack(path, tmp_path / "out").folder)
    # As in `test_the_same_model_as_the_folder`.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_window_for_each_layer(tiny_decoder: Callable[..., Path], gguf_files: Any, tmp_path: Path) -> None:
    changes = {"gemma3__attention__sliding_window_pattern": [True, False, True]}
    path = gguf_files.write_gguf(tmp_path / "m.gguf", tiny_decoder("gemma3_text"), **changes)
    with pytest.raises(ModelError, match="says of 3 layers whether they slide, and has 2"):
        inspect_gguf(path)


def test_a_cap_of_the_logits(tiny_decoder: Callable[..., Path], gguf_files: Any, tmp_path: Path) -> None:
    folder = tiny_decoder("gemma3_text", final_logit_softcapping=30.0)
    path = gguf_files.write_gguf(tmp_path / "m.gguf", folder)
    assert inspect_gguf(path).config["final_logit_softcapping"] == 30.0
    path = gguf_files.write_gguf(tmp_path / "plain.gguf", tiny_decoder("gemma3_text"))
    assert inspect_gguf(path).config["final_logit_softcapping"] is None


def test_another_order_of_rotated_rows_would_show(
    tiny_decoder: Callable[..., Path], gguf_files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin: a file whose rows were not reordered gives other logits."""
    folder = tiny_decoder("llama")
    monkeypatch.setattr(gguf_files, "_converted", lambda stored, values, config, family: values)
    (tmp_path / "out").mkdir()
    unpack(gguf_files.write_gguf(tmp_path / "m.gguf", folder), tmp_path / "out")
    assert np.abs(logits(tmp_path / "out") - logits(folder)).max() > 0.01


def test_the_same_tokens(
    tiny_decoder: Callable[..., Path], tiny_decoders: Any, gguf_files: Any, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    folder = tiny_decoder("llama", chat_template=tiny_decoders.CHAT_TEMPLATE)
    (tmp_path / "out").mkdir()
    unpack(gguf_files.write_gguf(tmp_path / "m.gguf", folder), tmp_path / "out")
    ours, theirs = (AutoTokenizer.from_pretrained(place) for place in (tmp_path / "out", folder))
    for text in TEXTS:
        assert ours(text)["input_ids"] == theirs(text)["input_ids"], text
    assert ours.chat_template == theirs.chat_template
    assert (ours.bos_token, ours.eos_token, ours.pad_token) == ("<s>", "</s>", "<pad>")


def test_sentencepiece_gets_its_space_before_every_text(
    tiny_decoder: Callable[..., Path], gguf_files: Any, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "ab"]
    tokens += [f"[{n}]" for n in range(288 - len(tokens))]
    path = gguf_files.write_gguf(
        tmp_path / "m.gguf",
        tiny_decoder("llama"),
        tokenizer__ggml__model="llama",
        tokenizer__ggml__pre="default",
        tokenizer__ggml__tokens=tokens,
        tokenizer__ggml__scores=[0.0 if n < 259 else -float(n) for n in range(len(tokens))],
        tokenizer__ggml__token_type=[2, 3, 3, *[6] * 256, *[1] * (len(tokens) - 259)],
        tokenizer__ggml__merges=None,
        tokenizer__ggml__bos_token_id=1,
        tokenizer__ggml__eos_token_id=2,
        tokenizer__ggml__padding_token_id=None,
        tokenizer__ggml__add_bos_token=None,
    )
    (tmp_path / "out").mkdir()
    unpack(path, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    spell = lambda text: tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])  # noqa: E731
    assert spell("a") == ["<s>", "▁a"]
    assert spell(" a") == ["<s>", "▁", "▁a"]
    assert spell("é") == ["<s>", "▁", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(tokenizer("ab a")["input_ids"], skip_special_tokens=True) == "ab a"


def test_what_the_config_says(tiny_decoder: Callable[..., Path], gguf_files: Any, tmp_path: Path) -> None:
    def config(**changes: Any) -> dict[str, Any]:
        path = gguf_files.write_gguf(tmp_path / "m.gguf", tiny_decoder("llama"), **changes)
        return dict(inspect_gguf(path).config)

    plain = config()
    assert plain["rms_norm_eps"] == 1e-6  # files keep float32, in which it reads 9.99999997e-07
    assert plain["tie_word_embeddings"] is False
    # Named 257; 259 is spelled `<|im_end|>`, which ends a turn.
    assert (plain["bos_token_id"], plain["eos_token_id"]) == (256, [257, 259])
    assert config(tokenizer__ggml__eot_token_id=258)["eos_token_id"] == [257, 258, 259]
    linear = config(llama__rope__scaling__type="linear", llama__rope__scaling__factor=4.0)
    assert linear["rope_parameters"] == {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}


def test_rotary_factors_of_llama3(tiny_decoder: Callable[..., Path], gguf_files: Any, tmp_path: Path) -> None:
    """The file keeps factors only; the settings that make them are found, and checked against transformers' own."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    settings = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(
        hidden_size=256, num_attention_heads=2, rope_parameters=settings | {"rope_theta": 500000.0}
    )
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 500000.0 ** -(np.arange(64) / 64)
    np.testing.assert_allclose(llama3_factors(64, 500000.0, settings), plain / scaled.numpy(), rtol=1e-5)


def mixed(name: str, values: np.ndarray) -> str:
    """A type for each kind of matrix, as the K mixes have."""
    kinds = {"attn_q": "Q4_K", "attn_k": "Q4_K", "attn_v": "Q6_K", "ffn_down": "Q5_K", "ffn_up": "Q4_1"}
    kinds |= {"attn_output": "Q5_0", "ffn_gate": "IQ4_XS", "token_embd": "Q4_K", "output": "Q8_0"}
    return next(kind for part, kind in kinds.items() if f"{part}." in name)


@pytest.mark.parametrize("tied", [True, False])
def test_every_matrix_of_the_graph_finds_its_codes(
    tied: bool, tiny_decoder: Callable[..., Path], gguf_files: Any, tmp_path: Path
) -> None:
    from edgeq.exporters.causal_lm import load_language_model
    from edgeq.quantize.layers import find_layers, layer_weight

    folder = tiny_decoder("llama", hidden_size=256, intermediate_size=256, tie_word_embeddings=tied)
    path = gguf_files.write_gguf(tmp_path / "m.gguf", folder, mixed)
    model = load_language_model(path)
    assert model.packed is not None and model.source.files[0].path == "m.gguf"
    layers = find_layers(model.canonical.model)
    sites = [*layers.sites.linears, *layers.sites.embeddings]
    assert len(sites) >= 11  # the builder fuses q, k and v
    reader = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for site in sites:
        weight = layer_weight(model.canonical.model, site)
        codes = model.packed.find(weight)
        assert codes is not None, site.name
        exact = codes.offsets is None
        np.testing.assert_allclose(
            codes.dequantize(), weight, rtol=0, atol=0 if exact else 1e-6 * np.abs(weight).max()
        )
    down = gguf.quants.dequantize(
        reader["blk.1.ffn_down.weight"].data, reader["blk.1.ffn_down.weight"].tensor_type
    )
    stored = next(site for site in sites if "layers.1.mlp.down_proj" in site.name)
    np.testing.assert_array_equal(layer_weight(model.canonical.model, stored).T, down)


def test_a_weight_that_is_not_the_checkpoints_is_not_found(
    tiny_decoder: Callable[..., Path], gguf_files: Any, tmp_path: Path
) -> None:
    path = gguf_files.write_gguf(tmp_path / "m.gguf", tiny_decoder("llama"), "Q8_0")
    (tmp_path / "out").mkdir()
    packed = unpack(path, tmp_path / "out").packed
    assert packed is not None
    weight = packed.tensors[0].load().dequantize()
    assert packed.find(weight) is not None
    weight[3, 2] = np.nextafter(weight[3, 2], 1)
    assert packed.find(weight) is None


def test_fused_rows_of_two_formats_take_the_finer(
    tiny_decoder: Callable[..., Path], gguf_files: Any, tmp_path: Path
) -> None:
    folder = tiny_decoder("llama", hidden_size=256, intermediate_size=256)
    path = gguf_files.write_gguf(tmp_path / "m.gguf", folder, mixed)
    (tmp_path / "out").mkdir()
    packed = unpack(path, tmp_path / "out").packed
    assert packed is not None
    parts = {
        tensor.name.split(".")[-2]: tensor.load() for tensor in packed.tensors if ".layers.0." in tensor.name
    }
    for names in (("q_proj", "v_proj"), ("o_proj", "v_proj"), ("q_proj", "o_proj"), ("k_proj", "up_proj")):
        dense = np.concatenate([parts[name].dequantize() for name in names], axis=1)
        # What the graph holds is what the file stands for, whose sum is rounded its own way.
        rows = np.concatenate([dense_rows(path, packed, name) for name in names], axis=1)
        found = packed.find(rows)
        assert found is not None
        np.testing.assert_array_equal(found.dequantize(), dense)
        assert found.spec.bits == max(parts[name].spec.bits for name in names)


def dense_rows(path: Path, packed: Any, name: str) -> np.ndarray:
    from safetensors.numpy import load_file

    weights = load_file(path.parent / "out" / "model.safetensors")
    return next(
        value.T
        for key, value in weights.items()
        if f"layers.0.self_attn.{name}" in key or f"layers.0.mlp.{name}" in key
    )


def test_the_folder_says_what_the_file_says(
    tiny_decoder: Callable[..., Path], gguf_files: Any, tmp_path: Path
) -> None:
    path = gguf_files.write_gguf(tmp_path / "m.gguf", tiny_decoder("gpt2"), "Q8_0", general__file_type=7)
    assert inspect_gguf(path).quantized == "gguf-q8_0"
    (tmp_path / "out").mkdir()
    unpack(path, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["n_embd"] == 64
