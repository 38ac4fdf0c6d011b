"""What Llama and the families made like it share: rotary positions, RMS norms, a gated feed-forward."""

from __future__ import annotations

from typing import Any

from edgeq.errors import ModelError, UnsupportedError
from edgeq.families.changes import Config
from edgeq.families.family import Metadata
from edgeq.families.gguf_file import GgufFile
from edgeq.families.model_shape import Matrix, ModelShape, SizeConfig, linear, table
from edgeq.families.rope import check_rope, head_size, rope, rope_parameters

ROLES = {
    "embed_tokens": "embedding",
    **{f"attn.{letter}_proj": f"attention.{letter}" for letter in "qkvo"},
    **{f"mlp.{part}_proj": f"ffn.{part}" for part in ("gate", "up", "down")},
    "lm_head": "head",
}


def metadata_of(config: Config) -> Metadata:
    """What every family with rotary positions tells llama.cpp."""
    check_rope(config)
    size, settings = head_size(config), rope(config)
    heads = int(config["num_attention_heads"])
    found: Metadata = {
        "block_count": int(config["num_hidden_layers"]),
        "context_length": int(config["max_position_embeddings"]),
        "embedding_length": int(config["hidden_size"]),
        "feed_forward_length": int(config["intermediate_size"]),
        "attention.head_count": heads,
        "attention.head_count_kv": int(config.get("num_key_value_heads") or heads),
        "rope.freq_base": float(settings.get("rope_theta", 10000.0)),
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "attention.key_length": size,
        "attention.value_length": size,
    }
    if settings.get("rope_type") == "linear":
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(settings["factor"])}
    return found


def config_of(file: GgufFile) -> dict[str, Any]:
    """What every family with rotary positions reads in a file."""
    heads, width = file.count("attention.head_count"), file.count("embedding_length")
    rotated = file.count("rope.dimension_count", width // heads)
    size = file.count("attention.key_length", rotated)
    return {
        "hidden_size": width,
        "intermediate_size": file.count("feed_forward_length"),
        "num_hidden_layers": file.count("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": file.count("attention.head_count_kv", heads),
        "head_dim": size,
        "max_position_embeddings": file.count("context_length"),
        "rms_norm_eps": file.number("attention.layer_norm_rms_epsilon"),
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "rope_parameters": rope_parameters(file, rotated / size),
    }


def window_metadata(config: Config, period: int) -> Metadata:
    """Which layers see only a window: llama.cpp assumes all but every n-th, other patterns are written out."""
    kinds = config.get("layer_types") or []
    slides = [kind == "sliding_attention" for kind in kinds]
    found: Metadata = {"attention.sliding_window": int(config["sliding_window"])}
    if slides != [(layer + 1) % period != 0 for layer in range(len(kinds))]:
        found["attention.sliding_window_pattern"] = slides
    return found


def layer_types(file: GgufFile, layers: int, period: int) -> list[str]:
    """Which layers see a window alone: all but every n-th, or as the file has it, by layer or by another n.

    Raises:
        ModelError: the file names another number of layers.
    """
    pattern = file.value("attention.sliding_window_pattern", (list, int), period)
    slides = pattern if isinstance(pattern, list) else [(n + 1) % max(pattern, 1) != 0 for n in range(layers)]
    if len(slides) != layers:
        raise ModelError(f"`{file.path}` says of {len(slides)} layers whether they slide, and has {layers}")
    return ["sliding_attention" if is_sliding else "full_attention" for is_sliding in slides]


def expect(config: Config, key: str, *allowed: object) -> None:
    """Refuse what llama.cpp would not compute.

    Raises:
        UnsupportedError: the config has another value.
    """
    if config.get(key) not in allowed:
        raise UnsupportedError(
            f"`{key}` is {config.get(key)!r}; llama.cpp runs this family with {' or '.join(map(str, allowed))} alone"
        )


def check_silu(config: Config) -> None:
    """Refuse another nonlinearity than SiLU."""
    expect(config, "hidden_act", "silu", "swish")


def gated_shape(
    config: SizeConfig,
    *,
    tied: bool,
    fused: bool = False,
    qkv_bias: bool = False,
    o_bias: bool = False,
    norms: int = 2,
    head_norms: int = 0,
    head_dim: int | None = None,
) -> ModelShape:
    """The Llama family; `tied` and `head_dim` are what its class takes when the config does not say."""
    hidden, inner, layers = (
        config.size("hidden_size"),
        config.size("intermediate_size"),
        config.size("num_hidden_layers"),
    )
    heads = config.size("num_attention_heads")
    kv_heads = config.size_or("num_key_value_heads", heads)
    width = config.size_or("head_dim", head_dim or hidden // heads)
    queries, cached = heads * width, kv_heads * width
    matrices = [table("model.embed_tokens", config.size("vocab_size"), hidden)]
    for index in range(layers):
        matrices += _layer_matrices(f"model.layers.{index}", hidden, inner, queries, cached, fused=fused)
    tied = config.flag("tie_word_embeddings", tied)
    if not tied:
        matrices.append(linear("lm_head", hidden, config.size("vocab_size")))
    mlp_bias = 2 * inner + hidden if config.flag("mlp_bias", default=False) else 0
    per_layer = norms * hidden + head_norms * width + mlp_bias
    per_layer += (queries + 2 * cached) * qkv_bias + hidden * o_bias
    return ModelShape(
        architecture=str(config.get("model_type")),
        matrices=tuple(matrices),
        vectors=layers * per_layer + hidden,
        hidden=hidden,
        layers=layers,
        heads=heads,
        head_dim=width,
        inner=inner,
        vocab=config.size("vocab_size"),
        positions=config.get("max_position_embeddings"),
        tied=("model.embed_tokens",) if tied else (),
        kv_heads=kv_heads,
        causal=True,
    )


def _layer_matrices(
    layer: str, hidden: int, inner: int, queries: int, cached: int, *, fused: bool
) -> list[Matrix]:
    attention, feed_forward = f"{layer}.self_attn", f"{layer}.mlp"
    if fused:
        inputs = [linear(f"{attention}.qkv_proj", hidden, queries + 2 * cached)]
        gated = [linear(f"{feed_forward}.gate_up_proj", hidden, 2 * inner)]
    else:
        inputs = [
            linear(f"{attention}.q_proj", hidden, queries),
            linear(f"{attention}.k_proj", hidden, cached),
            linear(f"{attention}.v_proj", hidden, cached),
        ]
        gated = [linear(f"{feed_forward}.{part}_proj", hidden, inner) for part in ("gate", "up")]
    return [
        *inputs,
        linear(f"{attention}.o_proj", queries, hidden),
        *gated,
        linear(f"{feed_forward}.down_proj", inner, hidden),
    ]
