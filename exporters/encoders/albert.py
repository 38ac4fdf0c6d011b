"""ALBERT (Lan et al., arXiv:1909.11942): one layer's weights, shared by all."""

from __future__ import annotations

from edgeq.exporters.architecture import TextArchitecture, forward_with_token_types, text_heads
from edgeq.exporters.encoder_shapes import embedding_tables, encoder_shape, post_norm_vectors
from edgeq.families.model_shape import ModelShape, SizeConfig, linear


def _shape(config: SizeConfig) -> ModelShape:
    """ALBERT: narrow tables, and layers that share one set of weights."""
    hidden, inner, width = (
        config.size("hidden_size"),
        config.size("intermediate_size"),
        config.size("embedding_size"),
    )
    matrices = embedding_tables(config, width, positions=True, types=config.size_or("type_vocab_size", 2))
    matrices.append(linear("encoder.embedding_hidden_mapping_in", width, hidden))
    groups, inner_groups = config.size_or("num_hidden_groups", 1), config.size_or("inner_group_num", 1)
    for group in range(groups):
        for index in range(inner_groups):
            layer = f"encoder.albert_layer_groups.{group}.albert_layers.{index}"
            parts = ("query", "key", "value", "dense")
            matrices += [linear(f"{layer}.attention.{part}", hidden, hidden) for part in parts]
            matrices += [linear(f"{layer}.ffn", hidden, inner), linear(f"{layer}.ffn_output", inner, hidden)]
    vectors = 2 * width + hidden + groups * inner_groups * post_norm_vectors(hidden, inner)
    return encoder_shape(config, matrices, vectors, hidden, inner, config.size("num_hidden_layers"))


ARCHITECTURE = TextArchitecture(
    model_type="albert",
    heads=text_heads("Albert"),
    forward=forward_with_token_types,
    positions=lambda config: config.max_position_embeddings,
    token_types=lambda config: config.type_vocab_size,
    shape=_shape,
    config_class="AlbertConfig",
    tiny_config={
        "vocab_size": 100,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "embedding_size": 16,
    },
)
