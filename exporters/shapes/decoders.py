"""Shapes of causal language models."""

from __future__ import annotations

from edgeq.exporters.shapes.base import Config, Matrix, ModelShape, linear, table


def llama(config: Config) -> ModelShape:
    """Llama and Mistral: grouped-query attention and a gated feed-forward, without biases."""
    biased = config.flag("attention_bias", default=False)
    return _gated(config, tied=False, qkv_bias=biased, o_bias=biased)


def qwen2(config: Config) -> ModelShape:
    """Qwen2: Llama with biases on queries, keys and values."""
    return _gated(config, tied=False, qkv_bias=True)


def qwen3(config: Config) -> ModelShape:
    """Qwen3: Llama with a norm on each query and key head, whose width is its own."""
    biased = config.flag("attention_bias", default=False)
    return _gated(config, tied=False, qkv_bias=biased, o_bias=biased, head_norms=2, head_dim=128)


def gemma(config: Config) -> ModelShape:
    """Gemma: Llama with wide heads and a tied table."""
    return _gated(config, tied=True, head_dim=256)


def gemma2(config: Config) -> ModelShape:
    """Gemma 2: a norm before and after each part."""
    return _gated(config, tied=True, norms=4, head_dim=256)


def gemma3(config: Config) -> ModelShape:
    """Gemma 3: Gemma 2 with a norm on each query and key head."""
    return _gated(config, tied=True, norms=4, head_norms=2, head_dim=256)


def phi3(config: Config) -> ModelShape:
    """Phi-3: Llama with queries, keys and values in one matrix, and gate and up in another."""
    return _gated(config, tied=False, fused=True)


def gpt2(config: Config) -> ModelShape:
    """GPT-2: learned positions, LayerNorm with biases, a tied table."""
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


def _gated(
    config: Config,
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
        matrices += _gated_layer(f"model.layers.{index}", hidden, inner, queries, cached, fused=fused)
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


def _gated_layer(
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
