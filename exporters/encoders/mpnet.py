"""MPNet (Song et al., arXiv:2004.09297): RoBERTa's positions, and a bias by distance in every layer."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from edgeq.exporters.architecture import EncoderInputs, TextArchitecture, text_heads
from edgeq.exporters.encoder_shapes import embedding_tables, encoder_shape, post_norm_layer, post_norm_vectors
from edgeq.exporters.modules import module, replaced
from edgeq.families.model_shape import ModelShape, SizeConfig, table

if TYPE_CHECKING:
    import torch

PADDING_ID = 1
"""Fixed in the model's code, whatever the config says."""


def _positions(config: Any) -> int:
    return int(config.max_position_embeddings) - PADDING_ID - 1


def _forward(model: Any, x: EncoderInputs) -> Any:
    return model(input_ids=x.input_ids, attention_mask=x.attention_bias, position_ids=x.position_ids)


def _position_bias(self: Any, hidden: torch.Tensor) -> torch.Tensor:
    """`[1, heads, sequence, sequence]`: the bias of key j for query i is in row `j - i + longest - 1`."""
    import torch

    position = self.position[: hidden.shape[1]]
    row = position[None, :] - position[:, None] + self.bias.shape[0] // 2
    return torch.nn.functional.embedding(row, self.bias).permute(2, 0, 1)[None]


def _patch(model: Any) -> AbstractContextManager[None]:
    """Look the bias up by distance, in place of the model's buckets by logarithms and comparisons."""
    import torch

    encoder = model.base_model.encoder
    longest = _positions(model.config)
    distances = torch.arange(1 - longest, longest)
    with torch.no_grad():
        buckets = encoder.relative_position_bucket(distances, num_buckets=_buckets(encoder))
        bias = encoder.relative_attention_bias(buckets)
    lookup = module(_position_bias, bias=bias, position=torch.arange(longest))
    # The module is also a child of the encoder, so that its nodes have a name.
    return replaced(encoder, relative_position_bias=lookup, compute_position_bias=lambda x: lookup(x))


def _buckets(encoder: Any) -> int:
    # The model calls compute_position_bias with its default, which does not follow the config.
    default: int = encoder.compute_position_bias.__defaults__[-1]
    return default


def _shape(config: SizeConfig) -> ModelShape:
    """MPNet: as BERT, without token types, with biases by relative distance."""
    hidden, inner, layers = (
        config.size("hidden_size"),
        config.size("intermediate_size"),
        config.size("num_hidden_layers"),
    )
    matrices = embedding_tables(config, hidden, positions=True, types=0)
    names = tuple(f"attention.attn.{part}" for part in "qkvo")
    for index in range(layers):
        matrices += post_norm_layer(f"encoder.layer.{index}", names, hidden, inner)
    buckets = config.size_or("relative_attention_num_buckets", 32)
    matrices.append(table("encoder.relative_attention_bias", buckets, config.size("num_attention_heads")))
    vectors = 2 * hidden + layers * post_norm_vectors(hidden, inner)
    return encoder_shape(config, matrices, vectors, hidden, inner, layers)


ARCHITECTURE = TextArchitecture(
    model_type="mpnet",
    heads=text_heads("MPNet"),
    forward=_forward,
    positions=_positions,
    first_position=lambda _: PADDING_ID + 1,
    patch=_patch,
    shape=_shape,
    config_class="MPNetConfig",
    tiny_config={
        "vocab_size": 100,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 66,
        "pad_token_id": 1,
    },
)
