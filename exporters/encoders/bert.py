"""BERT (Devlin et al., arXiv:1810.04805)."""

from __future__ import annotations

from edgeq.exporters.architecture import TextArchitecture, forward_with_token_types, text_heads

ARCHITECTURE = TextArchitecture(
    model_type="bert",
    heads=text_heads("Bert"),
    forward=forward_with_token_types,
    positions=lambda config: config.max_position_embeddings,
    token_types=lambda config: config.type_vocab_size,
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
