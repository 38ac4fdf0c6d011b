"""GPT-2 (Radford et al., 2019): learned positions, LayerNorm with biases, a tied table."""

from __future__ import annotations

from typing import Any

from edgeq.families.changes import Config, turned
from edgeq.families.family import DecoderFamily, GgufForm, Metadata
from edgeq.families.gated import expect
from edgeq.families.gguf_file import GgufFile
from edgeq.families.model_shape import ModelShape, SizeConfig, linear, table

ROLES = {
    "wte": "embedding",
    "wpe": "embedding.position",
    "attn.c_attn": "attention.qkv",
    "attn.c_proj": "attention.o",
    "mlp.c_fc": "ffn.up",
    "mlp.c_proj": "ffn.down",
    "lm_head": "head",
}


def _shape(config: SizeConfig) -> ModelShape:
    hidden, layers, heads = config.size("n_embd"), config.size("n_layer"), config.size("n_head")
    inner = config.size_or("n_inner", 4 * hidden)
    positions = config.size("n_positions", "max_position_embeddings")
    matrices = [table("wte", config.size("vocab_size"), hidden), table("wpe", positions, hidden)]
    for index in range(layers):
        layer = f"h.{index}"
        matrices += [
            linear(f"{layer}.attn.c_attn", hidden, 3 * hidden),
            linear(f"{layer}.attn.c_proj", hidden, hidden),
            linear(f"{layer}.mlp.c_fc", hidden, inner),
            linear(f"{layer}.mlp.c_proj", inner, hidden),
        ]
    vectors = layers * (4 * hidden + 3 * hidden + hidden + inner + hidden) + 2 * hidden
    return ModelShape(
        architecture=str(config.get("model_type")),
        matrices=tuple(matrices),
        vectors=vectors,
        hidden=hidden,
        layers=layers,
        heads=heads,
        head_dim=hidden // heads,
        inner=inner,
        vocab=config.size("vocab_size"),
        positions=positions,
        tied=("wte",),
        kv_heads=heads,
        causal=True,
    )


def _metadata(config: Config) -> Metadata:
    width = int(config["n_embd"])
    return {
        "block_count": int(config["n_layer"]),
        "context_length": int(config["n_positions"]),
        "embedding_length": width,
        "feed_forward_length": int(config.get("n_inner") or 4 * width),
        "attention.head_count": int(config["n_head"]),
        "attention.layer_norm_epsilon": float(config["layer_norm_epsilon"]),
    }


def _config(file: GgufFile) -> dict[str, Any]:
    width = file.count("embedding_length")
    return {
        "n_positions": file.count("context_length"),
        "n_embd": width,
        "n_layer": file.count("block_count"),
        "n_head": file.count("attention.head_count"),
        "n_inner": file.count("feed_forward_length", 4 * width),
        "layer_norm_epsilon": file.number("attention.layer_norm_epsilon"),
        "activation_function": "gelu_new",
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }


def _check(config: Config) -> None:
    expect(config, "activation_function", "gelu_new", "gelu_pytorch_tanh")
    expect(config, "scale_attn_weights", True)
    expect(config, "scale_attn_by_inverse_layer_idx", False)


FAMILY = DecoderFamily(
    model_type="gpt2",
    head="GPT2LMHeadModel",
    roles=ROLES,
    shape=_shape,
    gguf=GgufForm(
        "gpt2", _metadata, _config, (turned("c_attn.weight", "c_proj.weight", "c_fc.weight"),), _check
    ),
)
