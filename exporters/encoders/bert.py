"""BERT (Devlin et al., arXiv:1810.04805)."""

from __future__ import annotations

from edgeq.exporters.architecture import TextArchitecture, forward_with_token_types, text_heads
from edgeq.exporters.encoder_shapes import embedding_tables, encoder_shape, post_norm_layer, post_norm_vectors
from edgeq.families.model_shape import ModelShape, SizeConfig, linear


def shape(config: SizeConfig) -> ModelShape:
    """BERT, RoBERTa, XLM-RoBERTa and ELECTRA: learned positions, a LayerNorm after each part."""
    hidden, inner = config.size("hidden_size"), config.size("intermediate_size")
    width = config.size_or("embedding_size", hidden)
    matrices = embedding_tables(config, width, positions=True, types=config.size_or("type_vocab_size", 1))
    vectors = 2 * width
    if width != hidden:
        matrices.append(linear("embeddings_project", width, hidden))
        vectors += hidden
    layers = config.size("num_hidden_layers")
    names = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
    for index in range(layers):
        matrices += post_norm_layer(f"encoder.layer.{index}", names, hidden, inner)
    return encoder_shape(
        config, matrices, vectors + layers * post_norm_vectors(hidden, inner), hidden, inner, layers
    )


ARCHITECTURE = TextArchitecture(
    model_type="bert",
    heads=text_heads("Bert"),
    forward=forward_with_token_types,
    positions=lambda config: config.max_position_embeddings,
    token_types=lambda config: config.type_vocab_size,
    shape=shape,
    config_class="BertConfig",
    tiny_config={
        "vocab_size": 100,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    },
)
