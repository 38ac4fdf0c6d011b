"""DeBERTa v2 and v3 (He et al., arXiv:2006.03654, arXiv:2111.09543): attention by content and by distance.

The model looks up the score of every pair of positions with GatherElements, which is slow and which phones
refuse. Here the keys and queries of relative positions, constants once the weights are, are put in order of
distance first: one product gives the score of each token with every distance, and the relative shift of
Transformer-XL (Dai et al., arXiv:1901.02860) turns distances into positions with a pad, two reshapes and
two slices.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from edgeq.exporters.architecture import EncoderInputs, TextArchitecture, text_heads
from edgeq.exporters.encoder_shapes import embedding_tables, encoder_shape, post_norm_layer, post_norm_vectors
from edgeq.exporters.modules import module, replaced
from edgeq.families.model_shape import Matrix, ModelShape, SizeConfig, linear, table

if TYPE_CHECKING:
    import torch


def _forward(model: Any, x: EncoderInputs) -> Any:
    encoder = model.base_model.encoder
    # The encoder would make an outer product of the mask; nothing reads padded queries.
    with replaced(encoder, get_attention_mask=lambda _: x.attention_bias):
        return model(
            input_ids=x.input_ids,
            attention_mask=x.attention_mask,
            token_type_ids=x.token_type_ids,
            position_ids=x.position_ids,
        )


def _relative_shift(scores: torch.Tensor) -> torch.Tensor:
    """`[batch, heads, n, 2 n - 1]` by distance to `[batch, heads, n, n]`: `[i, j]` is `[i, j-i+n-1]`."""
    import torch

    batch, heads, n, distances = scores.shape
    padded = torch.nn.functional.pad(scores, (1, 0)).reshape(batch, heads, 2 * n * n)
    return padded[:, :, n:].reshape(batch, heads, n, distances)[..., :n]


def _distance_index(self: Any, hidden: torch.Tensor, *_: Any) -> tuple[Any, Any]:
    """Rows of the relative embeddings for distances `n - 1` down to `1 - n`: for keys, and for queries."""
    n, middle = hidden.shape[1], self.key_index.shape[0] // 2
    window = slice(middle + 1 - n, middle + n)
    return self.key_index[window], self.query_index[window]


def _attention(
    self: Any,
    hidden: torch.Tensor,
    attention_bias: torch.Tensor,
    output_attentions: bool = False,
    query_states: None = None,
    relative_pos: Any = None,
    rel_embeddings: Any = None,
) -> tuple[torch.Tensor, None]:
    shape = (hidden.shape[0], hidden.shape[1], self.heads, -1)
    query, key, value = (
        projection(hidden).view(shape).transpose(1, 2)
        for projection in (self.query_proj, self.key_proj, self.value_proj)
    )
    scores = query @ key.transpose(2, 3) * self.scale
    if self.has_key:
        scores = scores + _relative_shift(query @ self.position_key.index_select(2, relative_pos[0]))
    if self.has_query:
        by_key = _relative_shift(key @ self.position_query.index_select(2, relative_pos[1]))
        scores = scores + by_key.transpose(2, 3)
    context = ((scores + attention_bias).softmax(-1) @ value).transpose(1, 2)
    return context.reshape(hidden.shape[0], hidden.shape[1], -1), None


def _conv(self: Any, hidden: torch.Tensor, residual: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The convolution beside the first layer, with its mask as a product."""
    column = mask[:, :, None]
    out = self.act(self.conv(hidden.transpose(1, 2)).transpose(1, 2) * column)
    return self.LayerNorm(residual + out) * column


def _by_head(rows: torch.Tensor, heads: int, scale: float) -> torch.Tensor:
    """`[rows, heads * width]` to `[heads, width, rows]`, times the scale of attention scores."""
    return (rows * scale).view(rows.shape[0], heads, -1).permute(1, 2, 0).contiguous()


def _attention_module(attention: Any, relative: torch.Tensor | None) -> Any:
    heads, width = attention.num_attention_heads, attention.attention_head_size
    kinds = [kind for kind in ("c2p", "p2c") if kind in attention.pos_att_type]
    scale = (width * (1 + len(kinds))) ** -0.5
    constants = {}
    if relative is not None:
        shared = attention.share_att_key
        if "c2p" in kinds:
            project = attention.key_proj if shared else attention.pos_key_proj
            constants["position_key"] = _by_head(project(relative), heads, scale)
        if "p2c" in kinds:
            project = attention.query_proj if shared else attention.pos_query_proj
            constants["position_query"] = _by_head(project(relative), heads, scale)
    parts = {name: getattr(attention, name) for name in ("query_proj", "key_proj", "value_proj")}
    result = module(_attention, **parts, **constants)
    result.heads, result.scale = heads, scale
    result.has_key, result.has_query = "position_key" in constants, "position_query" in constants
    return result


def _index_module(encoder: Any, attention: Any, longest: int) -> Any:
    """The buckets of every distance, from the model's own function."""
    import torch
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    span = attention.pos_ebd_size
    distance = torch.arange(longest - 1, -longest, -1)
    bucket = distance
    if encoder.position_buckets > 0 and encoder.max_relative_positions > 0:
        bucket = make_log_bucket_position(
            distance, encoder.position_buckets, encoder.max_relative_positions
        ).long()
    return module(
        _distance_index,
        key_index=(bucket + span).clamp(0, 2 * span - 1),
        query_index=(span - bucket).clamp(0, 2 * span - 1),
    )


def _conv_module(conv: Any) -> Any:
    from transformers.activations import ACT2FN

    return module(_conv, conv=conv.conv, LayerNorm=conv.LayerNorm, act=ACT2FN[conv.conv_act])


@contextmanager
def _patch(model: Any) -> Iterator[None]:
    import torch

    encoder = model.base_model.encoder
    with ExitStack() as stack, torch.no_grad():
        relative = _relative_embeddings(encoder)
        if relative is not None:
            index = _index_module(
                encoder, encoder.layer[0].attention.self, model.config.max_position_embeddings
            )
            look_up = replaced(encoder, distance_index=index, get_rel_pos=lambda *states: index(*states))
            stack.enter_context(look_up)
        if encoder.conv is not None:
            stack.enter_context(replaced(encoder, conv=_conv_module(encoder.conv)))
        for layer in encoder.layer:
            attention = _attention_module(layer.attention.self, relative)
            stack.enter_context(replaced(layer.attention, self=attention))
        yield


def _relative_embeddings(encoder: Any) -> torch.Tensor | None:
    if not encoder.relative_attention:
        return None
    span = encoder.layer[0].attention.self.pos_ebd_size
    relative: torch.Tensor = encoder.get_rel_embedding()[: 2 * span]
    return relative


def _shape(config: SizeConfig) -> ModelShape:
    """DeBERTa-v2 and v3: attention also by relative position, from one table for all layers."""
    hidden, inner, layers = (
        config.size("hidden_size"),
        config.size("intermediate_size"),
        config.size("num_hidden_layers"),
    )
    width = config.size_or("embedding_size", hidden)
    types = config.get("type_vocab_size", 0)
    biased = config.flag("position_biased_input", default=True)
    matrices = embedding_tables(config, width, positions=biased, types=types)
    vectors = 2 * width
    if width != hidden:
        matrices.append(linear("embeddings.embed_proj", width, hidden))
    names = tuple(f"attention.self.{part}_proj" for part in ("query", "key", "value"))
    for index in range(layers):
        layer = f"encoder.layer.{index}"
        matrices += post_norm_layer(layer, (*names, "attention.output.dense"), hidden, inner)
        extra, biases = _position_projections(config, layer, hidden)
        matrices += extra
        vectors += biases
    matrices, more = _relative_table(config, matrices, hidden)
    kernel = config.get("conv_kernel_size", 0) or 0
    if kernel:
        matrices.append(linear("encoder.conv.conv", hidden * kernel, hidden))
        vectors += 3 * hidden
    vectors += more + layers * post_norm_vectors(hidden, inner)
    return encoder_shape(config, matrices, vectors, hidden, inner, layers)


def _position_projections(config: SizeConfig, layer: str, hidden: int) -> tuple[list[Matrix], int]:
    """Own keys and queries for relative positions, where they are not shared with those of tokens."""
    if not config.flag("relative_attention", default=False) or config.flag("share_att_key", default=False):
        return [], 0
    kinds = config.get("pos_att_type") or []
    kinds = kinds.split("|") if isinstance(kinds, str) else kinds
    wanted = [name for kind, name in (("c2p", "key"), ("p2c", "query")) if kind in kinds]
    found = [linear(f"{layer}.attention.self.pos_{name}_proj", hidden, hidden) for name in wanted]
    return found, hidden * len(found)


def _relative_table(config: SizeConfig, matrices: list[Matrix], hidden: int) -> tuple[list[Matrix], int]:
    if not config.flag("relative_attention", default=False):
        return matrices, 0
    longest = config.get("max_relative_positions", -1)
    buckets = config.get("position_buckets", -1)
    reach = buckets if buckets > 0 else longest if longest > 0 else config.size("max_position_embeddings")
    norm = 2 * hidden if "layer_norm" in str(config.get("norm_rel_ebd", "none")) else 0
    return [*matrices, table("encoder.rel_embeddings", 2 * reach, hidden)], norm


ARCHITECTURE = TextArchitecture(
    model_type="deberta-v2",
    heads=text_heads("DebertaV2"),
    forward=_forward,
    positions=lambda config: config.max_position_embeddings,
    token_types=lambda config: config.type_vocab_size,
    patch=_patch,
    shape=_shape,
    config_class="DebertaV2Config",
    # The settings of the v3 checkpoints.
    tiny_config={
        "vocab_size": 100,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "relative_attention": True,
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "max_relative_positions": -1,
        "type_vocab_size": 0,
    },
)
