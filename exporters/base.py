"""What an exporter returns: the canonical graph, its preprocessor, and a way to run the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from edgeq.errors import ModelError
from edgeq.tasks import Head, head_of
from edgeq.types import Feeds, Outputs, SourceInfo, Task

if TYPE_CHECKING:
    from edgeq.graph.component import Component
    from edgeq.processors.text import TextPreprocessor

Progress: TypeAlias = Callable[[str], None]
"""Told what is being done, one short phrase per stage."""


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """A model taken in from the Hugging Face world.

    Attributes:
        canonical: the graph every target lowers.
        source: provenance, with a SHA-256 of every file that was read.
        preprocessor: tokenization as the bundle will do it, without torch or transformers.
        reference: runs the original model on the same feeds as the canonical graph's inputs
            (`input_ids`, `attention_mask`, ... int64 `[batch, sequence]`) and returns outputs by the same
            names.
        notices: what the user should know about its files.
    """

    canonical: Component
    source: SourceInfo
    preprocessor: TextPreprocessor
    reference: Callable[[Feeds], Outputs]
    notices: tuple[str, ...] = ()

    @property
    def head(self) -> Head:
        """Its outputs, and how they are read and judged."""
        return head_of(self.source, self.canonical.outputs, self.preprocessor.special_token_ids)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model's config says, read without loading weights, torch or transformers.

    Attributes:
        model: what the user named.
        folder: where its files are.
        architecture: Hugging Face `model_type`, or `onnx`.
        task: what it will be exported for; None where the config does not say.
        tasks: every task it could be exported for.
        refusal: why it cannot be exported; None where it can.
        quantized: how a checkpoint that is quantized already is (`gguf-q4_k_m`); None for a float one.
        lost: weights of it whose type ONNX cannot hold, by name, with the type and the reason.
        notices: what the user should know about it.
    """

    model: str
    folder: Path
    architecture: str
    task: Task | None
    tasks: tuple[Task, ...]
    refusal: ModelError | None = None
    quantized: str | None = None
    lost: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    @property
    def is_supported(self) -> bool:
        """Whether `load_model` will try."""
        return self.refusal is None

    def require_supported(self) -> ModelFacts:
        """These facts, or the refusal.

        Raises:
            ModelError: the model cannot be exported.
        """
        if self.refusal is not None:
            raise self.refusal
        return self
