"""The closed vocabulary of steps from outputs to answers: scores, labels, answer spans, masked words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from edgeq.bundle.manifest import PostprocessKind, PostprocessStep
from edgeq.errors import IntegrityError
from edgeq.processors.text import TextPreprocessor
from edgeq.text_inputs import ATTENTION_MASK, INPUT_IDS, TOKEN_TYPE_IDS
from edgeq.types import Array, Feeds, FloatArray, Outputs

Answer: TypeAlias = dict[str, Any]
"""One sample's answer, ready for JSON."""

LONGEST_ANSWER_TOKENS = 30
_DEFAULT_TOP_K = 5


@dataclass(frozen=True, slots=True)
class Context:
    """What a step may look at besides the outputs."""

    feeds: Feeds
    labels: tuple[str, ...]
    preprocessor: TextPreprocessor | None


StepFunction: TypeAlias = Callable[[PostprocessStep, Outputs, Context], list[Answer]]
"""Outputs to one answer per sample."""


def answers(steps: Sequence[PostprocessStep], outputs: Outputs, context: Context) -> list[Answer]:
    """One answer per sample: the steps' results side by side; empty when the bundle has no steps.

    Raises:
        IntegrityError: a step reads an output of a shape it cannot.
    """
    for step in steps:
        _check_shapes(step, outputs, context.feeds)
    results = [_function_of(step, outputs)(step, outputs, context) for step in steps]
    return [
        {key: value for answer in row for key, value in answer.items()} for row in zip(*results, strict=True)
    ]


def _function_of(step: PostprocessStep, outputs: Outputs) -> StepFunction:
    """The step's own, but of one logit per text, as old bundles choose from: whatever it is, its softmax is 1."""
    chooses = step.step in (PostprocessKind.SOFTMAX, PostprocessKind.ARGMAX_LABEL)
    shape = outputs[step.outputs[0]].shape
    return _scores if chooses and len(shape) == 2 and shape[1] == 1 else _STEPS[step.step]


def _check_shapes(step: PostprocessStep, outputs: Outputs, feeds: Feeds) -> None:
    """`[batch, channels]`, `[batch, sequence]` or `[batch, sequence, channels]`, as the step needs."""
    tokens = np.shape(feeds.get(INPUT_IDS, ()))
    for name in step.outputs:
        shape = outputs[name].shape
        per_token = shape[:2] == tokens
        is_right = {
            PostprocessKind.ANSWER_SPAN: per_token and len(shape) == 2,
            PostprocessKind.TOP_TOKENS: per_token and len(shape) == 3,
            PostprocessKind.SCORE: len(shape) == 2,
        }.get(step.step, len(shape) == 2 or (per_token and len(shape) == 3))
        if not is_right:
            raise IntegrityError(
                f"the step `{step.step}` cannot read the output `{name}` of shape {list(shape)} for inputs of shape "
                f"{list(tokens)}"
            )


def softmax(logits: Array) -> FloatArray:
    """Probabilities over the last axis, computed in float64 with the maximum taken out."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    probabilities: FloatArray = (exponentials / exponentials.sum(axis=-1, keepdims=True)).astype(np.float32)
    return probabilities


def sigmoid(logits: Array) -> FloatArray:
    """Probability of each label by itself, without overflow."""
    probabilities: FloatArray = np.exp(-np.logaddexp(0.0, -logits.astype(np.float64))).astype(np.float32)
    return probabilities


def _probabilities(step: PostprocessStep, outputs: Outputs, context: Context) -> list[Answer]:
    function = softmax if step.step is PostprocessKind.SOFTMAX else sigmoid
    values = function(outputs[step.outputs[0]])
    if values.ndim == 2:
        return [{"scores": _named(row, context.labels)} for row in values]
    masks = context.feeds[ATTENTION_MASK].astype(bool)
    # Per token; what is padding is not an answer.
    kept = (row[mask] for row, mask in zip(values, masks, strict=True))
    return [{"token_scores": [_named(token, context.labels) for token in row]} for row in kept]


def _named(values: Array, labels: Sequence[str]) -> dict[str, float]:
    return {_label(labels, index): float(value) for index, value in enumerate(values)}


def _label(labels: Sequence[str], index: int) -> str:
    return labels[index] if index < len(labels) else f"LABEL_{index}"


def _argmax_label(step: PostprocessStep, outputs: Outputs, context: Context) -> list[Answer]:
    indices = outputs[step.outputs[0]].argmax(axis=-1)
    if indices.ndim == 1:
        return [{"label": _label(context.labels, int(index))} for index in indices]
    ids, masks = context.feeds[INPUT_IDS], context.feeds[ATTENTION_MASK].astype(bool)
    rows = zip(indices, ids, masks, strict=True)
    return [{"tokens": _token_labels(index[mask], tokens[mask], context)} for index, tokens, mask in rows]


def _token_labels(indices: Array, ids: Array, context: Context) -> list[Answer]:
    return [
        {"token": _token(int(token), context), "label": _label(context.labels, int(index))}
        for token, index in zip(ids, indices, strict=True)
    ]


def _token(token_id: int, context: Context) -> str:
    return context.preprocessor.id_to_token(token_id) if context.preprocessor else str(token_id)


def _answer_span(step: PostprocessStep, outputs: Outputs, context: Context) -> list[Answer]:
    starts, ends = (outputs[name] for name in step.outputs)
    rows = zip(starts, ends, context.feeds[INPUT_IDS], _answerable(context.feeds), strict=True)
    return [_best_span(start, end, ids, allowed, context) for start, end, ids, allowed in rows]


def _answerable(feeds: Feeds) -> Array:
    """Where an answer may be: in the second text when the model marks it, else anywhere but in padding."""
    mask = feeds[ATTENTION_MASK].astype(bool)
    types = feeds.get(TOKEN_TYPE_IDS)
    return mask & (types == 1) if types is not None and types.any() else mask


def _best_span(start: Array, end: Array, ids: Array, allowed: Array, context: Context) -> Answer:
    """The span with the largest start + end logit, end not before start, at most 30 tokens long."""
    size = len(start)
    scores = start.astype(np.float64)[:, None] + end.astype(np.float64)[None, :]
    length = np.arange(size)[None, :] - np.arange(size)[:, None]
    possible = (length >= 0) & (length < LONGEST_ANSWER_TOKENS) & allowed[:, None] & allowed[None, :]
    first, last = np.unravel_index(int(np.where(possible, scores, -np.inf).argmax()), scores.shape)
    tokens = [int(token) for token in ids[first : last + 1]]
    text = context.preprocessor.decode(tokens) if context.preprocessor else ""
    return {"answer": text, "start": int(first), "end": int(last), "score": float(scores[first, last])}


def _scores(step: PostprocessStep, outputs: Outputs, context: Context) -> list[Answer]:
    rows = outputs[step.outputs[0]]
    if rows.shape[1] == 1:
        return [{"score": float(row[0])} for row in rows]
    return [{"values": _named(row, context.labels)} for row in rows]


def _top_tokens(step: PostprocessStep, outputs: Outputs, context: Context) -> list[Answer]:
    mask_id = context.preprocessor.special_token_ids.get("mask_token") if context.preprocessor else None
    rows = zip(outputs[step.outputs[0]], context.feeds[INPUT_IDS], strict=True)
    top_k = step.top_k or _DEFAULT_TOP_K
    return [
        {"masks": [_likeliest(token, top_k, context) for token in logits[ids == mask_id]]}
        for logits, ids in rows
    ]


def _likeliest(logits: Array, top_k: int, context: Context) -> list[Answer]:
    probabilities = softmax(logits)
    best = np.argsort(-probabilities, kind="stable")[:top_k]
    return [{"token": _token(int(index), context), "score": float(probabilities[index])} for index in best]


_STEPS: dict[PostprocessKind, StepFunction] = {
    PostprocessKind.SOFTMAX: _probabilities,
    PostprocessKind.SIGMOID: _probabilities,
    PostprocessKind.ARGMAX_LABEL: _argmax_label,
    PostprocessKind.ANSWER_SPAN: _answer_span,
    PostprocessKind.TOP_TOKENS: _top_tokens,
    PostprocessKind.SCORE: _scores,
}
