"""DistilBERT (Sanh et al., arXiv:1910.01108): BERT without token types."""

from __future__ import annotations

from typing import Any

from edgeq.exporters.architecture import EncoderInputs, TextArchitecture, text_heads


def _forward(model: Any, x: EncoderInputs) -> Any:
    return model(input_ids=x.input_ids, attention_mask=x.attention_bias, position_ids=x.position_ids)


ARCHITECTURE = TextArchitecture(
    model_type="distilbert",
    heads=text_heads("DistilBert"),
    forward=_forward,
    positions=lambda config: config.max_position_embeddings,
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
