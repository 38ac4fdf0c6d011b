"""ELECTRA (Clark et al., arXiv:2003.10555): BERT with embeddings of their own width."""

from __future__ import annotations

from edgeq.exporters.architecture import TextArchitecture, forward_with_token_types, text_heads
from edgeq.exporters.encoders import bert

ARCHITECTURE = TextArchitecture(
    model_type="electra",
    heads=text_heads("Electra"),
    forward=forward_with_token_types,
    positions=lambda config: config.max_position_embeddings,
    token_types=lambda config: config.type_vocab_size,
    shape=bert.shape,
    config_class="ElectraConfig",
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
