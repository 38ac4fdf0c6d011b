"""GGUF files made from a model folder, by the names of the `gguf` package and what llama.cpp changes in weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ARCHITECTURES = {
    "llama": "LLAMA",
    "qwen2": "QWEN2",
    "qwen3": "QWEN3",
    "gemma2": "GEMMA2",
    "gemma3_text": "GEMMA3",
} | {
    "phi3": "PHI3",
    "gpt2": "GPT2",
}
HALVES = {
    "Q6_K": (208,),
    "Q3_K": (108,),
    "Q2_K": (80, 82),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
}
Kind = Callable[[str, np.ndarray], str]


def write_gguf(path: Path, folder: Path, kind: str | Kind = "F32", **changes: Any) -> Path:
    """Write a model.

    Args:
        path: of the file.
        folder: a Hugging Face folder with a byte-level tokenizer.
        kind: GGUF type of matrices, or what decides it from a tensor's name and values.
        changes: metadata to add or replace (None leaves a key out), with `__` for dots.
    """
    import gguf
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text())
    family = config["model_type"]
    arch = getattr(gguf.MODEL_ARCH, ARCHITECTURES[family])
    layers = config.get("num_hidden_layers") or config["n_layer"]
    names = gguf.get_tensor_name_map(arch, layers)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    metadata = _metadata(config, gguf.MODEL_ARCH_NAMES[arch]) | _vocabulary(folder)
    metadata |= {key.replace("__", "."): value for key, value in changes.items()}
    for key, value in metadata.items():
        _put(writer, key, value)
    for name, values in sorted(load_file(folder / "model.safetensors").items()):
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert stored is not None, name
        _add(writer, stored, _converted(stored, values, config, family), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _metadata(config: dict[str, Any], arch: str) -> dict[str, Any]:
    if arch == "gpt2":
        found = {
            "context_length": config["n_positions"],
            "embedding_length": config["n_embd"],
            "block_count": config["n_layer"],
            "feed_forward_length": 4 * config["n_embd"],
            "attention.head_count": config["n_head"],
            "attention.layer_norm_epsilon": float(config["layer_norm_epsilon"]),
        }
    else:
        rope = config.get("rope_parameters") or {}
        rope = rope.get("full_attention", rope)
        found = {
            "context_length": config["max_position_embeddings"],
            "embedding_length": config["hidden_size"],
            "block_count": config["num_hidden_layers"],
            "feed_forward_length": config["intermediate_size"],
            "attention.head_count": config["num_attention_heads"],
            "attention.head_count_kv": config["num_key_value_heads"],
            "attention.key_length": config.get("head_dim")
            or config["hidden_size"] // config["num_attention_heads"],
            "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
            "rope.freq_base": float(rope.get("rope_theta", 10000.0)),
        }
        found["rope.dimension_count"] = found["attention.key_length"]
        if config.get("sliding_window"):
            found["attention.sliding_window"] = config["sliding_window"]
        for key in ("attn_logit_softcapping", "final_logit_softcapping"):
            if config.get(key):
                found[key] = float(config[key])
    return {f"{arch}.{key}": value for key, value in found.items()}


def _vocabulary(folder: Path) -> dict[str, Any]:
    document = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = document["model"]["vocab"] | {t["content"]: t["id"] for t in document["added_tokens"]}
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    special = {token["content"] for token in document["added_tokens"]}
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in special else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in document["model"]["merges"]] or None,
        "tokenizer.ggml.bos_token_id": 256,
        "tokenizer.ggml.eos_token_id": 257,
        "tokenizer.ggml.padding_token_id": 258,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": settings.get("chat_template"),
    }


def _put(writer: Any, key: str, value: Any) -> None:
    if value is None:
        return
    adders = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
    }
    (writer.add_array if isinstance(value, list) else adders[type(value)])(key, value)


def _converted(stored: str, values: np.ndarray, config: dict[str, Any], family: str) -> np.ndarray:
    """As llama.cpp keeps it: rotated rows of Llama in pairs, Gemma's norms plus one, GPT-2's matrices turned."""
    leaf = stored.rsplit(".", 2)[-2]
    if family == "llama" and leaf in ("attn_q", "attn_k"):
        heads = config["num_attention_heads" if leaf == "attn_q" else "num_key_value_heads"]
        pairs = values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:])
        return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(values.shape))
    if family.startswith("gemma") and leaf.endswith("norm"):
        return values + np.float32(1)
    if family == "gpt2" and values.ndim == 2 and stored.startswith("blk."):
        return np.ascontiguousarray(values.T)
    return values


def _add(writer: Any, name: str, values: np.ndarray, kind: str | Kind) -> None:
    import gguf

    chosen = "F32" if values.ndim == 1 else kind if isinstance(kind, str) else kind(name, values)
    kind_ = gguf.GGMLQuantizationType[chosen]
    if chosen in ("F32", "F16"):
        writer.add_tensor(name, values.astype(np.float32 if chosen == "F32" else np.float16), raw_dtype=kind_)
        return
    try:
        data = gguf.quants.quantize(values, kind_)
    except NotImplementedError:
        data = random_rows(chosen, values, name)
    writer.add_tensor(name, data, raw_dtype=kind_)


def random_rows(kind: str, values: np.ndarray, name: str) -> np.ndarray:
    """Random bytes of a type that the package only reads, with scales that keep the values of a size with these."""
    import gguf

    size, width = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    rng = np.random.default_rng(list(name.encode()))
    blocks = rng.integers(0, 256, (len(values), values.shape[1] // size, width)).astype(np.uint8)
    for at in HALVES.get(kind, (0,)):
        scales = (rng.normal(size=blocks.shape[:2]) * np.abs(values).mean() / 256).astype("<f2")
        blocks[..., at : at + 2] = scales[..., None].view(np.uint8)
    return blocks.reshape(len(values), -1)
