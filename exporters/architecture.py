"""What one text encoder architecture declares: everything the exporter needs to know about a model family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeq.families.model_shape import ModelShape, SizeConfig
from edgeq.types import Task

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class EncoderInputs:
    """What every encoder is called with while it is traced.

    Attributes:
        input_ids: `[batch, sequence]` int64.
        attention_mask: `[batch, sequence]` float32, 1 for a token and 0 for padding.
        attention_bias: `[batch, 1, 1, sequence]` float32, added to attention scores: 0 or -10000.
        token_type_ids: `[batch, sequence]` int64, or `[1, 1]` zeros where the model knows one type only.
        position_ids: `[1, sequence]` int64, counted from the architecture's first position.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    attention_bias: torch.Tensor
    token_type_ids: torch.Tensor
    position_ids: torch.Tensor


def no_patch(model: Any) -> AbstractContextManager[None]:
    """Trace the model as it is."""
    del model
    return nullcontext()


@dataclass(frozen=True, slots=True)
class TextArchitecture:
    """One family of text encoders.

    Attributes:
        model_type: Hugging Face `model_type`.
        heads: class name in transformers for each task; sentence embedding uses feature extraction's.
        forward: calls the model on `EncoderInputs` and returns its output object.
        shape: sizes that a config stands for, without a head.
        positions: longest sequence in tokens, from the config.
        first_position: id of the first position, from the config.
        token_types: how many token types the model tells apart, from the config; an input when more than one.
        patch: context in which the model is traced; it puts every module back on exit.
        config_class: class name in transformers.
        tiny_config: arguments of a random model of about a hundred kilobytes, for tests.
    """

    model_type: str
    heads: Mapping[Task, str]
    forward: Callable[[Any, EncoderInputs], Any]
    shape: Callable[[SizeConfig], ModelShape]
    positions: Callable[[Any], int]
    config_class: str
    tiny_config: Mapping[str, Any]
    first_position: Callable[[Any], int] = lambda _: 0
    token_types: Callable[[Any], int] = lambda _: 1
    patch: Callable[[Any], AbstractContextManager[None]] = no_patch

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Every task the architecture can be exported for."""
        return (Task.SENTENCE_EMBEDDING, *self.heads)

    def head(self, task: Task) -> str:
        """Name of the transformers class that computes `task`."""
        return self.heads[Task.FEATURE_EXTRACTION if task is Task.SENTENCE_EMBEDDING else task]


def text_heads(prefix: str, *, masked_lm: str | None = None) -> dict[Task, str]:
    """Classes of a family that follows the usual names, `BertModel`, `BertForMaskedLM` and so on."""
    return {
        Task.FEATURE_EXTRACTION: f"{prefix}Model",
        Task.SEQUENCE_CLASSIFICATION: f"{prefix}ForSequenceClassification",
        Task.TOKEN_CLASSIFICATION: f"{prefix}ForTokenClassification",
        Task.QUESTION_ANSWERING: f"{prefix}ForQuestionAnswering",
        Task.FILL_MASK: masked_lm or f"{prefix}ForMaskedLM",
    }


def forward_with_token_types(model: Any, x: EncoderInputs) -> Any:
    """The call of every model whose `forward` takes the four usual arguments."""
    return model(
        input_ids=x.input_ids,
        attention_mask=x.attention_bias,
        token_type_ids=x.token_type_ids,
        position_ids=x.position_ids,
    )
