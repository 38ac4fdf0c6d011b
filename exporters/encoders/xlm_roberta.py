"""XLM-RoBERTa (Conneau et al., arXiv:1911.02116): RoBERTa with a vocabulary for a hundred languages."""

from __future__ import annotations

from edgeq.exporters.architecture import TextArchitecture, forward_with_token_types, text_heads
from edgeq.exporters.encoders import bert

ARCHITECTURE = TextArchitecture(
    model_type="xlm-roberta",
    heads=text_heads("XLMRoberta"),
    forward=forward_with_token_types,
    positions=lambda config: config.max_position_embeddings - config.pad_token_id - 1,
    first_position=lambda config: config.pad_token_id + 1,
    token_types=lambda config: config.type_vocab_size,
    shape=bert.shape,
    config_class="XLMRobertaConfig",
    tiny_config={
        "vocab_size": 100,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 66,
        "type_vocab_size": 1,
        "pad_token_id": 1,
    },
)
