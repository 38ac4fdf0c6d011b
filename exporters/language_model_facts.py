"""What a causal language model is, from its config alone, and every reason to refuse it before long work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeq.errors import ModelError
from edgeq.exporters.config_sizes import refusal_of_sizes
from edgeq.exporters.exported_model import ModelFacts
from edgeq.exporters.own_code import own_code
from edgeq.families import FAMILIES
from edgeq.families.positions import rope_type
from edgeq.types import Task

ROPES = ("default", "linear", "llama3", "yarn", "dynamic", "longrope")
"""Types of rotary positions that are taken in: each one's table is constant up to `constant_positions`."""


@dataclass(frozen=True, slots=True)
class LanguageModelFacts:
    """What a config says about a causal language model, read without loading weights.

    Attributes:
        model: what the user named.
        folder: where its files are.
        architecture: Hugging Face `model_type`.
        config: `config.json`.
        refusal: why it cannot be exported; None where it can.
        quantized: how a checkpoint that is quantized already is (`gguf-q4_k_m`); None for a float one.
        lost: weights of it whose type ONNX cannot hold, by name, with the type and the reason.
        notices: what the user should know about it.
        is_text_part: the folder is a checkpoint of images and text, and this is the language model in it.
    """

    model: str
    folder: Path
    architecture: str
    config: Mapping[str, Any] = field(repr=False)
    refusal: ModelError | None = None
    quantized: str | None = None
    lost: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    is_text_part: bool = False

    @property
    def is_unpacked(self) -> bool:
        """Whether an ordinary folder has to be made of it first."""
        return self.quantized is not None or self.is_text_part

    def as_model_facts(self) -> ModelFacts:
        """The same facts as every model has them."""
        task = Task.TEXT_GENERATION
        return ModelFacts(
            self.model,
            self.folder,
            self.architecture,
            task,
            (task,),
            self.refusal,
            self.quantized,
            self.lost,
            self.notices,
        )

    def require_supported(self) -> LanguageModelFacts:
        """These facts, or the refusal.

        Raises:
            ModelError: the model cannot be exported.
        """
        if self.refusal is not None:
            raise self.refusal
        return self


def head_name(config: Mapping[str, Any]) -> str:
    """The class that a config names first; empty where it names none."""
    names = config.get("architectures") or [""]
    return str(names[0])


def refusal_of(config: Mapping[str, Any]) -> ModelError | None:
    """Why a model of this config cannot be exported; None where it can."""
    architecture = config["model_type"]
    code, _ = own_code(config, class_of(config))
    if code is not None:
        return code
    if architecture not in FAMILIES:
        return ModelError(
            f"language models of type `{architecture}` are not supported, expected one of {', '.join(FAMILIES)}"
        )
    return refusal_of_sizes(config) or _refuse_variant(config)


def class_of(config: Mapping[str, Any]) -> str | None:
    """The class of transformers that a decoder will be run as; None where edgeq has none for it."""
    family = FAMILIES.get(config["model_type"])
    return family.head if family else None


def _refuse_variant(config: Mapping[str, Any]) -> ModelError | None:
    """What a supported `model_type` may hold that is not supported."""
    architecture = config["model_type"]
    family = FAMILIES[architecture]
    if head_name(config) != family.head:
        return ModelError(
            f"`{architecture}` with {config.get('architectures')} is not supported, expected {family.head}"
        )
    kind = rope_type(config)
    if kind not in ROPES:
        return ModelError(f"rotary positions of type `{kind}` are not supported, expected {', '.join(ROPES)}")
    return None
