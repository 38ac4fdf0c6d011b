"""DistilBERT (Sanh et al., arXiv:1910.01108): BERT without token types."""

from __future__ import annotations

from typing import Any

from edgeq.exporters.architecture import EncoderInputs, TextArchitecture, text_heads
from edgeq.exporters.encoder_shapes import embedding_tables, encoder_shape, post_norm_vectors
from edgeq.families.model_shape import ModelShape, SizeConfig, linear


def _forward(model: Any, x: EncoderInputs) -> Any:
    return model(input_ids=x.input_ids, attention_mask=x.attention_bias, position_ids=x.position_ids)


def _shape(config: SizeConfig) -> ModelShape:
    """DistilBERT: as BERT, without token types and pooler."""
    hidden, inner, layers = config.size("dim"), config.size("hidden_dim"), config.size("n_layers")
    matrices = embedding_tables(config, hidden, positions=True, types=0)
    for index in range(layers):
        layer = f"transformer.layer.{index}"
        matrices += [
            linear(f"{layer}.attention.{part}_lin", hidden, hidden) for part in ("q", "k", "v", "out")
        ]
        matrices += [linear(f"{layer}.ffn.lin1", hidden, inner), linear(f"{layer}.ffn.lin2", inner, hidden)]
    vectors = 2 * hidden + layers * post_norm_vectors(hidden, inner)
    return encoder_shape(config, matrices, vectors, hidden, inner, layers)


ARCHITECTURE = TextArchitecture(
    model_type="distilbert",
    heads=text_heads("DistilBert"),
    forward=_forward,
    positions=lambda config: config.max_position_embeddings,
    shape=_shape,
    config_class="DistilBertConfig",
    tiny_config={
        "vocab_size": 100,
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 64,
        "max_position_embeddings": 64,
    },
)
