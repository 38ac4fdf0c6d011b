"""GGUF architectures in transformers' words: config, parameter names, and what llama.cpp changed in a weight."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeq.errors import ModelError, UnsupportedError
from edgeq.exporters.gguf.reader import GgufFile
from edgeq.exporters.gguf.rope import rope_parameters
from edgeq.types import Array

Config = dict[str, Any]
Change = Callable[[Array, GgufFile], Array]
"""From a tensor's rows (bytes or floats) to the rows of the parameter; columns keep their order."""


@dataclass(frozen=True, slots=True)
class GgufFamily:
    """One `general.architecture`.

    Attributes:
        model_type: of transformers.
        head: class name in `architectures`.
        config: the file's metadata as a config.
        names: parameter name by the tensor's name; `{n}` is the layer.
        changes: by tensor name, what undoes llama.cpp's conversion.
        transposed: tensors whose parameter is `[in, out]`.
        ignored: tensors that no parameter takes.
    """

    model_type: str
    head: str
    config: Callable[[GgufFile], Config]
    names: Mapping[str, str]
    changes: Mapping[str, Change]
    transposed: frozenset[str] = frozenset()
    ignored: frozenset[str] = frozenset({"rope_freqs.weight"})

    def parameter(self, tensor: str) -> tuple[str, str]:
        """A tensor's parameter, and its name without the layer's number.

        Raises:
            UnsupportedError: the architecture has no such tensor.
        """
        found = re.fullmatch(r"blk\.(\d+)\.(.+)", tensor)
        generic = f"blk.{{n}}.{found[2]}" if found else tensor
        stem, _, kind = generic.rpartition(".")
        name = self.names.get(stem)
        if name is None or kind not in ("weight", "bias"):
            raise UnsupportedError(f"tensor `{tensor}` has no place in a {self.model_type} model")
        return f"{name.format(n=found[1] if found else '')}.{kind}", generic


LLAMA_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "blk.{n}.attn_norm": "model.layers.{n}.input_layernorm",
    "blk.{n}.attn_q": "model.layers.{n}.self_attn.q_proj",
    "blk.{n}.attn_k": "model.layers.{n}.self_attn.k_proj",
    "blk.{n}.attn_v": "model.layers.{n}.self_attn.v_proj",
    "blk.{n}.attn_output": "model.layers.{n}.self_attn.o_proj",
    "blk.{n}.ffn_norm": "model.layers.{n}.post_attention_layernorm",
    "blk.{n}.ffn_gate": "model.layers.{n}.mlp.gate_proj",
    "blk.{n}.ffn_up": "model.layers.{n}.mlp.up_proj",
    "blk.{n}.ffn_down": "model.layers.{n}.mlp.down_proj",
}
QWEN3_NAMES = {
    **LLAMA_NAMES,
    "blk.{n}.attn_q_norm": "model.layers.{n}.self_attn.q_norm",
    "blk.{n}.attn_k_norm": "model.layers.{n}.self_attn.k_norm",
}
GEMMA_NAMES = {
    **QWEN3_NAMES,
    "blk.{n}.post_attention_norm": "model.layers.{n}.post_attention_layernorm",
    "blk.{n}.ffn_norm": "model.layers.{n}.pre_feedforward_layernorm",
    "blk.{n}.post_ffw_norm": "model.layers.{n}.post_feedforward_layernorm",
}
PHI3_NAMES = {
    **LLAMA_NAMES,
    "blk.{n}.attn_qkv": "model.layers.{n}.self_attn.qkv_proj",
    "blk.{n}.ffn_up": "model.layers.{n}.mlp.gate_up_proj",
}
GPT2_NAMES = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
    "blk.{n}.attn_norm": "transformer.h.{n}.ln_1",
    "blk.{n}.attn_qkv": "transformer.h.{n}.attn.c_attn",
    "blk.{n}.attn_output": "transformer.h.{n}.attn.c_proj",
    "blk.{n}.ffn_norm": "transformer.h.{n}.ln_2",
    "blk.{n}.ffn_up": "transformer.h.{n}.mlp.c_fc",
    "blk.{n}.ffn_down": "transformer.h.{n}.mlp.c_proj",
}


def _heads(file: GgufFile) -> int:
    return file.count("attention.head_count")


def _kv_heads(file: GgufFile) -> int:
    return file.count("attention.head_count_kv", _heads(file))


def _unpermute(heads: Callable[[GgufFile], int]) -> Change:
    """Undo llama.cpp's order of rotated rows: it pairs neighbours where transformers pairs halves of a head."""

    def change(rows: Array, file: GgufFile) -> Array:
        count = heads(file)
        if len(rows) % (2 * count):
            raise UnsupportedError(f"{len(rows)} rows cannot be the rotated rows of {count} heads")
        halves = rows.reshape(count, len(rows) // count // 2, 2, *rows.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))

    return change


def _minus_one(rows: Array, file: GgufFile) -> Array:
    """Gemma's norms multiply by `1 + w`; llama.cpp stores the sum."""
    return np.asarray(rows - np.float32(1), np.float32)


_LLAMA_CHANGES: dict[str, Change] = {
    f"blk.{{n}}.attn_{letter}.{kind}": _unpermute(heads)
    for letter, heads in (("q", _heads), ("k", _kv_heads))
    for kind in ("weight", "bias")
}
_GEMMA_CHANGES: dict[str, Change] = {
    f"{name}.weight": _minus_one
    for name in ("output_norm", *(name for name in GEMMA_NAMES if name.endswith("norm")))
}


def _common(file: GgufFile) -> Config:
    """What every family but GPT-2 has."""
    heads, width = _heads(file), file.count("embedding_length")
    rotated = file.count("rope.dimension_count", width // heads)
    size = file.count("attention.key_length", rotated)
    return {
        "hidden_size": width,
        "intermediate_size": file.count("feed_forward_length"),
        "num_hidden_layers": file.count("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": _kv_heads(file),
        "head_dim": size,
        "max_position_embeddings": file.count("context_length"),
        "rms_norm_eps": file.number("attention.layer_norm_rms_epsilon"),
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "rope_parameters": rope_parameters(file, rotated / size),
    }


def _llama(file: GgufFile) -> Config:
    if int(file.value("expert_count", int, 0)) > 0:
        raise UnsupportedError(f"`{file.path}` is a mixture of experts, which is not supported")
    return {
        **_common(file),
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
    }


def _qwen(file: GgufFile) -> Config:
    return {**_common(file), "hidden_act": "silu", "use_sliding_window": False, "attention_bias": False}


def _layer_types(file: GgufFile, layers: int, period: int) -> list[str]:
    """Which layers see a window alone: all but every n-th, or as the file has it, by layer or by another n.

    Raises:
        ModelError: the file names another number of layers.
    """
    pattern = file.value("attention.sliding_window_pattern", (list, int), period)
    slides = pattern if isinstance(pattern, list) else [(n + 1) % max(pattern, 1) != 0 for n in range(layers)]
    if len(slides) != layers:
        raise ModelError(f"`{file.path}` says of {len(slides)} layers whether they slide, and has {layers}")
    return ["sliding_attention" if is_sliding else "full_attention" for is_sliding in slides]


def _gemma(file: GgufFile, *, largest_layers: int, period: int) -> Config:
    config = _common(file)
    # The largest of each generation scales queries by the width of its heads' share, not by their size.
    largest = config["num_hidden_layers"] == largest_layers
    scalar = config["hidden_size"] / config["num_attention_heads"] if largest else config["head_dim"]
    return {
        **config,
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "query_pre_attn_scalar": scalar,
        "sliding_window": int(file.value("attention.sliding_window", int)),
        "layer_types": _layer_types(file, config["num_hidden_layers"], period),
    }


def _gemma2(file: GgufFile) -> Config:
    return {
        **_gemma(file, largest_layers=46, period=2),
        "attn_logit_softcapping": file.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": file.number("final_logit_softcapping", 30.0),
    }


def _gemma3(file: GgufFile) -> Config:
    config = _gemma(file, largest_layers=62, period=6)
    local = {"rope_type": "default", "rope_theta": file.number("rope.freq_base_swa", 10000.0)}
    return {
        **config,
        # 0 where the model caps nothing, as Gemma 3's own releases.
        "final_logit_softcapping": file.number("final_logit_softcapping", 0.0) or None,
        "rope_parameters": {"full_attention": config["rope_parameters"], "sliding_attention": local},
    }


def _phi3(file: GgufFile) -> Config:
    if any(name.startswith("rope_factors") for name in file.tensors):
        raise UnsupportedError(
            f"`{file.path}` has rotary positions of type longrope, which change with the length of the text",
            hint="export a model with a short context (phi-3 4k)",
        )
    window = int(file.value("attention.sliding_window", int, 0))
    original = file.count("rope.scaling.original_context_length", file.count("context_length"))
    return {
        **_common(file),
        "hidden_act": "silu",
        "original_max_position_embeddings": original,
        "sliding_window": window or None,
    }


def _gpt2(file: GgufFile) -> Config:
    width = file.count("embedding_length")
    return {
        "n_positions": file.count("context_length"),
        "n_embd": width,
        "n_layer": file.count("block_count"),
        "n_head": _heads(file),
        "n_inner": file.count("feed_forward_length", 4 * width),
        "layer_norm_epsilon": file.number("attention.layer_norm_epsilon"),
        "activation_function": "gelu_new",
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }


FAMILIES: Mapping[str, GgufFamily] = {
    "llama": GgufFamily("llama", "LlamaForCausalLM", _llama, LLAMA_NAMES, _LLAMA_CHANGES),
    "qwen2": GgufFamily("qwen2", "Qwen2ForCausalLM", _qwen, LLAMA_NAMES, {}),
    "qwen3": GgufFamily("qwen3", "Qwen3ForCausalLM", _qwen, QWEN3_NAMES, {}),
    "gemma2": GgufFamily("gemma2", "Gemma2ForCausalLM", _gemma2, GEMMA_NAMES, _GEMMA_CHANGES),
    "gemma3": GgufFamily("gemma3_text", "Gemma3ForCausalLM", _gemma3, GEMMA_NAMES, _GEMMA_CHANGES),
    "phi3": GgufFamily("phi3", "Phi3ForCausalLM", _phi3, PHI3_NAMES, {}),
    "gpt2": GgufFamily(
        "gpt2",
        "GPT2LMHeadModel",
        _gpt2,
        GPT2_NAMES,
        {},
        transposed=frozenset(
            f"blk.{{n}}.{name}.weight" for name in ("attn_qkv", "attn_output", "ffn_up", "ffn_down")
        ),
    ),
}
"""By `general.architecture`. Adding one is a line here, its functions above, and a model in the tests."""
