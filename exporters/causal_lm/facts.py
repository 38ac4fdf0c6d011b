"""What a causal language model is, from its config alone, and every reason to refuse it before long work."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeq.errors import ModelError
from edgeq.exporters.causal_lm.base import LanguageModelFacts
from edgeq.exporters.causal_lm.families import FAMILIES, ROPES, rope_type
from edgeq.exporters.facts import read_config
from edgeq.exporters.packed import quantization_of, read_settings
from edgeq.exporters.sentence import read_sentence_model
from edgeq.exporters.source import fetch, local_folder
from edgeq.types import Task

LM_SUFFIXES = ("ForCausalLM", "LMHeadModel")


def asks_for_generation(folder: Path, task: str | None) -> bool:
    """Whether `--task`, or the head that a folder's config names, asks for text generation.

    Families of encoders (a BERT trained as a decoder) are left to the exporter of encoders, which refuses them.

    Raises:
        ModelError: the folder holds no transformer.
    """
    if read_sentence_model(folder) is not None:
        return False
    config = read_config(folder)
    if task is not None:
        return task == Task.TEXT_GENERATION and config["model_type"] in FAMILIES
    return _head(config).endswith(LM_SUFFIXES) and config["model_type"] not in _encoders()


def _encoders() -> Mapping[str, Any]:
    from edgeq.exporters import ARCHITECTURES

    return ARCHITECTURES


def inspect_language_model(model: str | Path, *, revision: str | None = None) -> LanguageModelFacts:
    """Read what a causal language model is; takes milliseconds for a local folder.

    Raises:
        ModelError: there is no such model, or it is not a transformer.
    """
    folder = local_folder(model) or fetch(str(model), revision, config_only=True)
    return read_lm_facts(str(model), folder)


def read_lm_facts(model: str, folder: Path) -> LanguageModelFacts:
    """Facts about a folder with `config.json`."""
    config = read_config(folder)
    described = quantization_of(folder, config)
    plain = {name: value for name, value in config.items() if name != "quantization_config"}
    facts = LanguageModelFacts(model, folder, config["model_type"], plain, refusal_of(plain))
    if described is None:
        return facts
    try:
        return replace(facts, quantized=read_settings(described).label)
    except ModelError as refusal:
        return replace(facts, refusal=facts.refusal or refusal)


def _head(config: Mapping[str, Any]) -> str:
    names = config.get("architectures") or [""]
    return str(names[0])


def refusal_of(config: Mapping[str, Any]) -> ModelError | None:
    """Why a model of this config cannot be exported; None where it can."""
    architecture = config["model_type"]
    if config.get("auto_map"):
        return ModelError(
            f"the model needs code of its own (auto_map: {', '.join(sorted(config['auto_map']))}), which "
            "edgeq does not run: code from a model repository could do anything on this machine",
            hint="use a model whose architecture is part of transformers",
        )
    if architecture not in FAMILIES:
        close = difflib.get_close_matches(architecture, FAMILIES, n=1)
        return ModelError(
            f"language models of type `{architecture}` are not supported, expected one of {', '.join(FAMILIES)}",
            hint=f"did you mean {close[0]}? check model_type in config.json" if close else None,
        )
    return _refuse_variant(config)


def _refuse_variant(config: Mapping[str, Any]) -> ModelError | None:
    """What a supported `model_type` may hold that is not supported."""
    architecture = config["model_type"]
    family = FAMILIES[architecture]
    if _head(config) != family.head:
        return ModelError(
            f"`{architecture}` with {config.get('architectures')} is not supported, expected {family.head}"
        )
    kind = rope_type(config)
    if kind not in ROPES:
        return ModelError(
            f"rotary positions of type `{kind}` are not supported, expected {', '.join(ROPES)}",
            hint="they change with the length of the text; export a checkpoint without them"
            if kind in ("longrope", "dynamic", "yarn")
            else None,
        )
    return None
