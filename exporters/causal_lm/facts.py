"""What a folder with a causal language model says about it, before long work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeq.errors import ConfigError, ModelError
from edgeq.exporters.causal_lm.text_part import TEXT_PARTS, part_notice, text_config
from edgeq.exporters.encoders import ARCHITECTURES
from edgeq.exporters.facts import read_config
from edgeq.exporters.gptq_awq import quantization_of, read_settings
from edgeq.exporters.language_model_facts import LanguageModelFacts, class_of, head_name, refusal_of
from edgeq.exporters.own_code import own_code
from edgeq.exporters.sentence import read_sentence_model
from edgeq.exporters.source import fetch, local_folder
from edgeq.families import FAMILIES
from edgeq.families.positions import constant_positions, rope_type
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
        known = config["model_type"] in FAMILIES or _is_vision_and_text(config)
        return task == Task.TEXT_GENERATION and known
    if _is_vision_and_text(config):
        return True
    return head_name(config).endswith(LM_SUFFIXES) and config["model_type"] not in ARCHITECTURES


def _is_vision_and_text(config: Mapping[str, Any]) -> bool:
    """A checkpoint with a language model and something that sees."""
    return head_name(config).endswith("ForConditionalGeneration") and isinstance(
        config.get("text_config"), dict
    )


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
    if _is_vision_and_text(config):
        return _read_text_part(model, folder, config)
    described = quantization_of(folder, config)
    plain = {name: value for name, value in config.items() if name != "quantization_config"}
    _, notice = own_code(plain, class_of(plain))
    notices = (notice,) if notice else ()
    facts = LanguageModelFacts(model, folder, config["model_type"], plain, refusal_of(plain), notices=notices)
    if described is None:
        return facts
    try:
        return replace(facts, quantized=read_settings(described).label)
    except ModelError as refusal:
        return replace(facts, refusal=facts.refusal or refusal)


def _read_text_part(model: str, folder: Path, config: Mapping[str, Any]) -> LanguageModelFacts:
    """The language model of a checkpoint of images and text."""
    inner = text_config(config)
    if inner is None:
        part = config["text_config"].get("model_type")
        refusal = ModelError(
            f"`{config['model_type']}` reads images and text{f', its text part is `{part}`' if part else ''}; the text "
            f"part alone is taken of {', '.join(TEXT_PARTS)}"
        )
        return LanguageModelFacts(model, folder, config["model_type"], config, refusal, is_text_part=True)
    described = quantization_of(folder, config)
    refusal_of_code, code = own_code(config, TEXT_PARTS[config["model_type"]].whole)
    quantized = (
        None
        if described is None
        else ModelError(
            f"the checkpoint of images and text is already quantized ({described.get('quant_method')}), expected float "
            "weights"
        )
    )
    notices = (part_notice(config, inner["model_type"]), *((code,) if code else ()))
    refused = refusal_of_code or quantized or refusal_of(inner)
    return LanguageModelFacts(
        model, folder, inner["model_type"], inner, refused, notices=notices, is_text_part=True
    )


def context_length(config: Mapping[str, Any], asked: int | None) -> int:
    """Most tokens of prompt and answer that a model is exported for.

    Raises:
        ModelError: the config names none, or `asked` is missing where positions change with the length of the text.
        ConfigError: `asked` is longer than the model's.
    """
    limit = config.get("max_position_embeddings") or config.get("n_positions")
    if not isinstance(limit, int) or limit < 2:
        raise ModelError(f"the config names no context length (max_position_embeddings is {limit!r})")
    if asked is not None and not 2 <= asked <= limit:
        raise ConfigError(
            f"--seq-len {asked} does not fit: the model's context is 2 to {limit} tokens",
            hint=f"--seq-len {limit}",
        )
    constant = constant_positions(config)
    if constant is not None and (asked or limit) > constant:
        raise ModelError(
            f"rotary positions of type `{rope_type(config)}` are others for texts of more than {constant} tokens, and "
            f"a graph has one table: the context of {asked or limit} tokens does not fit",
            hint=f"--seq-len {constant}",
        )
    return asked or limit
