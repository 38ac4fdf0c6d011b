"""Shapes of text encoders, with the heads of their usual tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edgeq.families.model_shape import Matrix, ModelShape, SizeConfig, linear, table


def bert(config: SizeConfig) -> ModelShape:
    """BERT, RoBERTa, XLM-RoBERTa and ELECTRA: learned positions, a LayerNorm after each part."""
    hidden, inner = config.size("hidden_size"), config.size("intermediate_size")
    width = config.size_or("embedding_size", hidden)
    matrices = _embeddings(config, width, positions=True, types=config.size_or("type_vocab_size", 1))
    vectors = 2 * width
    if width != hidden:
        matrices.append(linear("embeddings_project", width, hidden))
        vectors += hidden
    layers = config.size("num_hidden_layers")
    names = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
    for index in range(layers):
        matrices += _post_norm_layer(f"encoder.layer.{index}", names, hidden, inner)
    return _encoder(
        config, matrices, vectors + layers * _post_norm_vectors(hidden, inner), hidden, inner, layers
    )


def mpnet(config: SizeConfig) -> ModelShape:
    """MPNet: as BERT, without token types, with biases by relative distance."""
    hidden, inner, layers = (
        config.size("hidden_size"),
        config.size("intermediate_size"),
        config.size("num_hidden_layers"),
    )
    matrices = _embeddings(config, hidden, positions=True, types=0)
    names = tuple(f"attention.attn.{part}" for part in "qkvo")
    for index in range(layers):
        matrices += _post_norm_layer(f"encoder.layer.{index}", names, hidden, inner)
    buckets = config.size_or("relative_attention_num_buckets", 32)
    matrices.append(table("encoder.relative_attention_bias", buckets, config.size("num_attention_heads")))
    vectors = 2 * hidden + layers * _post_norm_vectors(hidden, inner)
    return _encoder(config, matrices, vectors, hidden, inner, layers)


def distilbert(config: SizeConfig) -> ModelShape:
    """DistilBERT: as BERT, without token types and pooler."""
    hidden, inner, layers = config.size("dim"), config.size("hidden_dim"), config.size("n_layers")
    matrices = _embeddings(config, hidden, positions=True, types=0)
    for index in range(layers):
        layer = f"transformer.layer.{index}"
        matrices += [
            linear(f"{layer}.attention.{part}_lin", hidden, hidden) for part in ("q", "k", "v", "out")
        ]
        matrices += [linear(f"{layer}.ffn.lin1", hidden, inner), linear(f"{layer}.ffn.lin2", inner, hidden)]
    vectors = 2 * hidden + layers * _post_norm_vectors(hidden, inner)
    return _encoder(config, matrices, vectors, hidden, inner, layers)


def albert(config: SizeConfig) -> ModelShape:
    """ALBERT: narrow tables, and layers that share one set of weights."""
    hidden, inner, width = (
        config.size("hidden_size"),
        config.size("intermediate_size"),
        config.size("embedding_size"),
    )
    matrices = _embeddings(config, width, positions=True, types=config.size_or("type_vocab_size", 2))
    matrices.append(linear("encoder.embedding_hidden_mapping_in", width, hidden))
    groups, inner_groups = config.size_or("num_hidden_groups", 1), config.size_or("inner_group_num", 1)
    for group in range(groups):
        for index in range(inner_groups):
            layer = f"encoder.albert_layer_groups.{group}.albert_layers.{index}"
            parts = ("query", "key", "value", "dense")
            matrices += [linear(f"{layer}.attention.{part}", hidden, hidden) for part in parts]
            matrices += [linear(f"{layer}.ffn", hidden, inner), linear(f"{layer}.ffn_output", inner, hidden)]
    vectors = 2 * width + hidden + groups * inner_groups * _post_norm_vectors(hidden, inner)
    return _encoder(config, matrices, vectors, hidden, inner, config.size("num_hidden_layers"))


def deberta_v2(config: SizeConfig) -> ModelShape:
    """DeBERTa-v2 and v3: attention also by relative position, from one table for all layers."""
    hidden, inner, layers = (
        config.size("hidden_size"),
        config.size("intermediate_size"),
        config.size("num_hidden_layers"),
    )
    width = config.size_or("embedding_size", hidden)
    types = config.get("type_vocab_size", 0)
    biased = config.flag("position_biased_input", default=True)
    matrices = _embeddings(config, width, positions=biased, types=types)
    vectors = 2 * width
    if width != hidden:
        matrices.append(linear("embeddings.embed_proj", width, hidden))
    names = tuple(f"attention.self.{part}_proj" for part in ("query", "key", "value"))
    for index in range(layers):
        layer = f"encoder.layer.{index}"
        matrices += _post_norm_layer(layer, (*names, "attention.output.dense"), hidden, inner)
        extra, biases = _position_projections(config, layer, hidden)
        matrices += extra
        vectors += biases
    matrices, more = _relative_table(config, matrices, hidden)
    kernel = config.get("conv_kernel_size", 0) or 0
    if kernel:
        matrices.append(linear("encoder.conv.conv", hidden * kernel, hidden))
        vectors += 3 * hidden
    vectors += more + layers * _post_norm_vectors(hidden, inner)
    return _encoder(config, matrices, vectors, hidden, inner, layers)


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


def modernbert(config: SizeConfig) -> ModelShape:
    """ModernBERT: rotary positions, gated feed-forward, a LayerNorm before each part, no biases by default."""
    hidden, inner, layers = (
        config.size("hidden_size"),
        config.size("intermediate_size"),
        config.size("num_hidden_layers"),
    )
    matrices = [table("embeddings.tok_embeddings", config.size("vocab_size"), hidden)]
    for index in range(layers):
        layer = f"layers.{index}"
        matrices += [
            linear(f"{layer}.attn.Wqkv", hidden, 3 * hidden),
            linear(f"{layer}.attn.Wo", hidden, hidden),
        ]
        matrices += [linear(f"{layer}.mlp.Wi", hidden, 2 * inner), linear(f"{layer}.mlp.Wo", inner, hidden)]
    # The first layer has no norm before its attention; one more is at each end.
    norms = (2 * layers + 1) * hidden * (2 if config.flag("norm_bias", default=False) else 1)
    biases = 4 * hidden if config.flag("attention_bias", default=False) else 0
    biases += 2 * inner + hidden if config.flag("mlp_bias", default=False) else 0
    return _encoder(config, matrices, norms + layers * biases, hidden, inner, layers)


def _embeddings(config: SizeConfig, width: int, *, positions: bool, types: int) -> list[Matrix]:
    tables = [table("embeddings.word_embeddings", config.size("vocab_size"), width)]
    if positions:
        tables.append(table("embeddings.position_embeddings", config.size("max_position_embeddings"), width))
    if types:
        tables.append(table("embeddings.token_type_embeddings", types, width))
    return tables


def _post_norm_layer(layer: str, attention: tuple[str, ...], hidden: int, inner: int) -> list[Matrix]:
    return [
        *(linear(f"{layer}.{name}", hidden, hidden) for name in attention),
        linear(f"{layer}.intermediate.dense", hidden, inner),
        linear(f"{layer}.output.dense", inner, hidden),
    ]


def _post_norm_vectors(hidden: int, inner: int) -> int:
    """Biases of q, k, v, o and both feed-forward matrices, and two LayerNorms."""
    return 4 * hidden + inner + hidden + 4 * hidden


def _encoder(
    config: SizeConfig, matrices: list[Matrix], vectors: int, hidden: int, inner: int, layers: int
) -> ModelShape:
    heads = config.size("num_attention_heads", "n_heads")
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
        positions=config.get("max_position_embeddings"),
    )


def with_head(shape: ModelShape, config: SizeConfig) -> ModelShape:
    """The encoder with the head that its config names; none for sentence embedding and feature extraction."""
    names = config.get("architectures") or []
    name = str(names[0]) if names else ""
    found = next((add for suffix, add in _HEADS.items() if name.endswith(suffix)), None)
    return shape if found is None else found(shape, config)


def _sequence_head(shape: ModelShape, config: SizeConfig) -> ModelShape:
    """A dense layer (the pooler, where there is one) and the classifier."""
    hidden, labels = shape.hidden, _labels(config)
    parts = (linear("pooler.dense", hidden, hidden), linear("classifier", hidden, labels))
    return shape.with_parts(parts, hidden + labels)


def _token_head(shape: ModelShape, config: SizeConfig) -> ModelShape:
    labels = _labels(config)
    return shape.with_parts((*_head_dense(shape), linear("classifier", shape.hidden, labels)), labels)


def _answer_head(shape: ModelShape, config: SizeConfig) -> ModelShape:
    del config
    return shape.with_parts((*_head_dense(shape), linear("qa_outputs", shape.hidden, 2)), 2)


def _head_dense(shape: ModelShape) -> tuple[Matrix, ...]:
    """ModernBERT puts a dense layer before every classifier."""
    return (linear("head.dense", shape.hidden, shape.hidden),) if shape.architecture == "modernbert" else ()


def _masked_head(shape: ModelShape, config: SizeConfig) -> ModelShape:
    """A dense layer with LayerNorm, then the word table once more, with a bias."""
    word, (width, rows) = shape.matrices[0]
    tied = (word,) if config.flag("tie_word_embeddings", default=True) else ()
    own = () if tied else (linear("lm_head", width, rows),)
    parts = (linear("predictions.transform.dense", shape.hidden, width), *own)
    return shape.with_parts(parts, 3 * width + rows, tied)


def _labels(config: SizeConfig) -> int:
    names = config.get("id2label")
    return len(names) if isinstance(names, Mapping) and names else config.size_or("num_labels", 2)


_HEADS: dict[str, Callable[[ModelShape, SizeConfig], ModelShape]] = {
    "ForSequenceClassification": _sequence_head,
    "ForTokenClassification": _token_head,
    "ForQuestionAnswering": _answer_head,
    "ForMaskedLM": _masked_head,
}
