"""What edgeq knows about a family of decoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from edgeq.families.changes import Change, Config
from edgeq.families.gguf_file import GgufFile
from edgeq.families.model_shape import ModelShape, SizeConfig

Metadata: TypeAlias = dict[str, Any]
"""Keys after `<architecture>.`, in the order of the file."""


@dataclass(frozen=True, slots=True)
class GgufForm:
    """A family as llama.cpp runs it.

    Facts from llama.cpp's converters and models (conversion/*.py, src/models/*.cpp). What llama.cpp computes otherwise
    than the original is refused, or said where it matters only beyond some length. Names of tensors are those of the
    `gguf` package.

    Attributes:
        name: `general.architecture`.
        metadata: what llama.cpp needs to know.
        config: a file's metadata as a config.
        changes: in weights.
        check: refuses configs that llama.cpp would run as something else.
        has_windows: llama.cpp lets layers see a window alone where the original does.
        is_read: files of this name are read as this family.
    """

    name: str
    metadata: Callable[[Config], Metadata]
    config: Callable[[GgufFile], dict[str, Any]]
    changes: tuple[Change, ...] = ()
    check: Callable[[Config], None] = lambda _: None
    has_windows: bool = False
    is_read: bool = True

    def change_of(self, parameter: str) -> Change | None:
        """The change of a parameter; None for those that are stored as they are."""
        return next((change for change in self.changes if parameter.endswith(change.suffixes)), None)


@dataclass(frozen=True, slots=True)
class DecoderFamily:
    """One `model_type`.

    Attributes:
        model_type: as in config.json.
        head: class name in `architectures` that is meant; others of the type (vision, classification) are not.
        roles: what each matrix does, by the end of its module path.
        shape: sizes that a config stands for.
        gguf: as llama.cpp runs it.
        genai_type: `model.type` of genai_config.json; None where ONNX Runtime GenAI does not run the family.
        has_builder: the model builder of ONNX Runtime GenAI makes this family's graph.
        rope_aliases: other names that configs of the family give a type of rotary positions.
        trained_positions: what its class takes where a `longrope` config does not say how long the texts of the first
            training were; None for all of the context.
    """

    model_type: str
    head: str
    roles: Mapping[str, str]
    shape: Callable[[SizeConfig], ModelShape]
    gguf: GgufForm
    genai_type: str | None = None
    has_builder: bool = False
    rope_aliases: Mapping[str, str] = field(default_factory=dict)
    trained_positions: int | None = None
