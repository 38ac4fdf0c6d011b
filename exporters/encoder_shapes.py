"""Parts that the shapes of text encoders are made of, and the heads of their usual tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edgeq.families.model_shape import Matrix, ModelShape, SizeConfig, linear, table


def embedding_tables(config: SizeConfig, width: int, *, positions: bool, types: int) -> list[Matrix]:
    """Tables of words, of positions, and of as many token types."""
    tables = [table("embeddings.word_embeddings", config.size("vocab_size"), width)]
    if positions:
        tables.append(table("embeddings.position_embeddings", config.size("max_position_embeddings"), width))
    if types:
        tables.append(table("embeddings.token_type_embeddings", types, width))
    return tables


def post_norm_layer(layer: str, attention: tuple[str, ...], hidden: int, inner: int) -> list[Matrix]:
    """Square matrices of these names, and the feed-forward of a layer with its norms behind each part."""
    return [
        *(linear(f"{layer}.{name}", hidden, hidden) for name in attention),
        linear(f"{layer}.intermediate.dense", hidden, inner),
        linear(f"{layer}.output.dense", inner, hidden),
    ]


def post_norm_vectors(hidden: int, inner: int) -> int:
    """Biases of q, k, v, o and both feed-forward matrices, and two LayerNorms."""
    return 4 * hidden + inner + hidden + 4 * hidden


def encoder_shape(
    config: SizeConfig, matrices: list[Matrix], vectors: int, hidden: int, inner: int, layers: int
) -> ModelShape:
    """The shape with what every config says alike."""
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
