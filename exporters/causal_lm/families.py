"""The decoder families that are taken in, and by which road each one's graph comes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

HEAD_SIZE_STEP = 16
"""GroupQueryAttention of ONNX Runtime's CPU provider rotates heads whose size is a multiple of this."""
ROPES = ("default", "linear", "llama3", "yarn", "dynamic", "longrope")
"""Types of rotary positions that are taken in: each one's table is constant up to `constant_positions`."""
BUILDER_ROPES = ("default", "llama3")
"""Those that the model builder makes as the model has them."""


@dataclass(frozen=True, slots=True)
class DecoderFamily:
    """One `model_type`.

    Attributes:
        model_type: as in config.json.
        head: class name in `architectures` that is meant; others of the type (vision, classification) are not.
        genai_type: `model.type` of genai_config.json; None where ONNX Runtime GenAI does not run the family.
        has_builder: the model builder of ONNX Runtime GenAI makes this family's graph (0.18 fails on Gemma 3 as
            transformers 5 describes its rotary positions).
    """

    model_type: str
    head: str
    genai_type: str | None
    has_builder: bool


FAMILIES: Mapping[str, DecoderFamily] = {
    family.model_type: family
    for family in (
        DecoderFamily("llama", "LlamaForCausalLM", "llama", True),
        DecoderFamily("mistral", "MistralForCausalLM", "mistral", True),
        DecoderFamily("qwen2", "Qwen2ForCausalLM", "qwen2", True),
        DecoderFamily("qwen3", "Qwen3ForCausalLM", "qwen3", True),
        DecoderFamily("gemma2", "Gemma2ForCausalLM", "gemma2", True),
        DecoderFamily("gemma3_text", "Gemma3ForCausalLM", "gemma3_text", False),
        DecoderFamily("phi3", "Phi3ForCausalLM", "phi3", True),
        DecoderFamily("gpt2", "GPT2LMHeadModel", None, False),
    )
}
"""By `model_type`. Adding a family is a line here and a tiny model in its tests."""


def head_size(config: Mapping[str, Any]) -> int:
    """Values per attention head."""
    explicit = config.get("head_dim")
    if explicit:
        return int(explicit)
    heads = config.get("num_attention_heads") or config["n_head"]
    return int(config.get("hidden_size") or config["n_embd"]) // int(heads)


def builder_refusal(config: Mapping[str, Any]) -> str | None:
    """Why the model builder's graph cannot be used for this config; None where it can."""
    family = FAMILIES[config["model_type"]]
    if not family.has_builder:
        return f"the model builder has no correct graph for {family.model_type}"
    size = head_size(config)
    if size % HEAD_SIZE_STEP:
        return f"GroupQueryAttention needs a head size that is a multiple of {HEAD_SIZE_STEP}, this model has {size}"
    kind = rope_type(config)
    if kind not in BUILDER_ROPES:
        return f"the builder (0.18) leaves rotary positions of type {kind} as they are"
    rotated = round(
        size * rope_settings(config).get("partial_rotary_factor", config.get("partial_rotary_factor", 1))
    )
    if rotated % HEAD_SIZE_STEP:
        return (
            f"GroupQueryAttention rotates multiples of {HEAD_SIZE_STEP} values, this model rotates {rotated}"
        )
    return None


def rope_settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """How rotary positions are made, under either name that transformers gave it."""
    found = config.get("rope_scaling") or config.get("rope_parameters") or {}
    return found if isinstance(found, dict) else {}


def rope_type(config: Mapping[str, Any]) -> str:
    """`default`, `linear`, `llama3`, `longrope`, ...; of a model whose layers differ the first that is not default."""
    settings = rope_settings(config)
    by_kind = [value for value in settings.values() if isinstance(value, Mapping)]
    kinds = [_named_type(one, config) for one in by_kind or [settings]]
    return next((kind for kind in kinds if kind != "default"), "default")


def _named_type(settings: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    kind = str(settings.get("rope_type", settings.get("type", "default")))
    # The first configs of Phi-3 named longrope so.
    return "longrope" if config["model_type"] == "phi3" and kind in ("su", "yarn") else kind


def constant_positions(config: Mapping[str, Any]) -> int | None:
    """Up to how many tokens the table of rotary positions is the same for every text; None for all of the context.

    `longrope` takes other frequencies for texts longer than the model's first training saw; `dynamic` changes them
    beyond `max_position_embeddings`, which no context goes beyond.
    """
    if rope_type(config) != "longrope":
        return None
    # transformers prefers the key of the config itself, for which Phi-3's class has a default.
    first = config.get("original_max_position_embeddings")
    usual = 4096 if config["model_type"] == "phi3" else config.get("max_position_embeddings")
    return first or rope_settings(config).get("original_max_position_embeddings") or usual


def freeze_positions(model: Any) -> None:
    """Keep rotary frequencies as they are for texts inside `constant_positions`, in place: tables become constants."""
    for part in model.modules():
        kind = getattr(part, "rope_type", None)
        if isinstance(kind, str):
            part.rope_type = "default"
        elif isinstance(kind, dict):
            part.rope_type = dict.fromkeys(kind, "default")


def layer_windows(config: Any, layers: int) -> list[int | None]:
    """How many tokens back each layer sees, itself included; None is all of them.

    Args:
        config: the config object of transformers, with its defaults filled in.
        layers: of the model.
    """
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if window is None:
        return [None] * layers
    if kinds is None:
        return [int(window)] * layers
    return [int(window) if kind == "sliding_attention" else None for kind in kinds]
