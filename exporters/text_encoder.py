"""The module that is traced: a Hugging Face text encoder behind plain tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgeq.exporters.architecture import EncoderInputs, TextArchitecture
from edgeq.exporters.modules import module
from edgeq.graph.component import BATCH, SEQUENCE
from edgeq.types import Role, Task, TensorSpec

if TYPE_CHECKING:
    import torch

MASKED_SCORE = -10000.0
"""Added to the scores of padded keys: exp(-10000) is 0 in float32, and float16 and int8 paths can hold it."""

OUTPUTS = {
    Task.FEATURE_EXTRACTION: ("last_hidden_state",),
    Task.SENTENCE_EMBEDDING: ("sentence_embedding",),
    Task.SEQUENCE_CLASSIFICATION: ("logits",),
    Task.TOKEN_CLASSIFICATION: ("logits",),
    Task.QUESTION_ANSWERING: ("start_logits", "end_logits"),
    Task.FILL_MASK: ("logits",),
}
"""Output names of each task; they are attributes of the transformers output objects, and roles."""


def input_specs(token_types: int) -> tuple[TensorSpec, ...]:
    """Inputs of an encoder that tells `token_types` kinds of tokens apart."""
    shape = (BATCH, SEQUENCE)
    specs = (
        TensorSpec("input_ids", "int64", shape, Role.TOKEN_IDS),
        TensorSpec("attention_mask", "int64", shape, Role.ATTENTION_MASK),
        TensorSpec("token_type_ids", "int64", shape, Role.TOKEN_TYPE_IDS),
    )
    return specs if token_types > 1 else specs[:2]


def _float_mask(self: Any, attention_mask: torch.Tensor) -> torch.Tensor:
    """The only cast of the mask: a target that takes a float mask drops this node."""
    return attention_mask.float()


def _attention_bias(self: Any, mask: torch.Tensor) -> torch.Tensor:
    """`[batch, sequence]` of 0 and 1 to `[batch, 1, 1, sequence]` of -10000 and 0."""
    return (1.0 - mask)[:, None, None, :] * MASKED_SCORE


def _position_ids(self: Any, input_ids: torch.Tensor) -> torch.Tensor:
    """Exact for right padding: padded positions get ids of their own, and are masked."""
    return self.table[:, : input_ids.shape[1]]


def build_text_encoder(
    model: Any, architecture: TextArchitecture, task: Task, sentence_head: torch.nn.Module | None = None
) -> torch.nn.Module:
    """Wrap a transformers model so that its trace is canonical: float masks, fixed positions, named outputs.

    Called with `input_ids`, `attention_mask` and, where the model tells types apart, `token_type_ids`, all
    int64 `[batch, sequence]`; returns the outputs of `task` by name.
    """
    import torch

    first, length = architecture.first_position(model.config), architecture.positions(model.config)

    def forward(
        self: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        mask = self.attention_mask(attention_mask)
        types = self.token_type if token_type_ids is None else token_type_ids
        inputs = EncoderInputs(
            input_ids, mask, self.attention_bias(mask), types, self.position_ids(input_ids)
        )
        output = architecture.forward(self.model, inputs)
        if sentence_head is not None:
            return {OUTPUTS[task][0]: self.sentence(output.last_hidden_state, mask)}
        return {name: getattr(output, name) for name in OUTPUTS[task]}

    parts = {"sentence": sentence_head} if sentence_head is not None else {}
    return module(
        forward,
        model=model,
        attention_mask=module(_float_mask),
        attention_bias=module(_attention_bias),
        position_ids=module(_position_ids, table=torch.arange(first, first + length)[None]),
        token_type=torch.zeros(1, 1, dtype=torch.int64),
        **parts,
    )


@contextmanager
def standard_activations(model: Any) -> Iterator[None]:
    """Replace hand-written GELUs by torch's own, which become one `Gelu` node, while tracing.

    `gelu_new` and its kin are the tanh approximation of Hendrycks and Gimpel (arXiv:1606.08415), spelled out.
    """
    import torch
    from transformers import activations

    approximate = (
        activations.NewGELUActivation,
        activations.FastGELUActivation,
        activations.AccurateGELUActivation,
        activations.GELUTanh,
    )
    exact = (activations.GELUActivation,)
    replaced: list[tuple[Any, str, Any]] = []
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, approximate + exact):
                kind = "tanh" if isinstance(child, approximate) else "none"
                replaced.append((parent, name, child))
                setattr(parent, name, torch.nn.GELU(approximate=kind))
    try:
        yield
    finally:
        for parent, name, child in replaced:
            setattr(parent, name, child)
