"""What an exporter returns: the canonical graph, its preprocessor, and a way to run the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from edgeq.errors import ModelError, UnsupportedError
from edgeq.graph.component import Component, Wire, check_wires
from edgeq.tasks import Head, head_of
from edgeq.types import Feeds, Outputs, SourceInfo, Task

if TYPE_CHECKING:
    from edgeq.processors.text import TextPreprocessor

Progress: TypeAlias = Callable[[str], None]
"""Told what is being done, one short phrase per stage."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exported:
    """A model of any task, taken in from the Hugging Face world.

    Attributes:
        components: its graphs, which every target lowers.
        wires: what they give each other; none where there is one.
        source: provenance, with a SHA-256 of every file that was read.
        preprocessor: makes feeds as the bundle will, without torch or transformers.
        notices: what the user should know about its files.

    Raises:
        ValueError: components or wires do not fit together.
    """

    components: tuple[Component, ...]
    source: SourceInfo
    preprocessor: TextPreprocessor
    wires: tuple[Wire, ...] = ()
    notices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that the components are one model."""
        check_wires(self.components, self.wires)

    @property
    def canonical(self) -> Component:
        """The graph of a model that has one.

        Raises:
            UnsupportedError: it has several.
        """
        if len(self.components) > 1:
            names = ", ".join(component.name for component in self.components)
            raise UnsupportedError(f"`{self.source.model}` has {len(self.components)} graphs ({names})")
        return self.components[0]

    @property
    def head(self) -> Head:
        """Its outputs, and how they are read and judged."""
        return head_of(self.source, self.canonical.outputs, self.preprocessor.special_token_ids)

    def run(self, feeds: Feeds) -> Outputs:
        """The original model on feeds of the graph's inputs; outputs by the same names."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExportedModel(Exported):
    """A model that is run once per input.

    Attributes:
        reference: runs the original model on the feeds of the graph's inputs.
    """

    reference: Callable[[Feeds], Outputs]

    def run(self, feeds: Feeds) -> Outputs:
        """The original model's outputs."""
        return self.reference(feeds)


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
