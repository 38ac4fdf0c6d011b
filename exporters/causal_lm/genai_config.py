"""`genai_config.json` of a traced graph, so that ONNX Runtime GenAI runs it too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeq.families import FAMILIES
from edgeq.families.rope import head_size
from edgeq.runtime.generation.settings import GenerationSettings

USUAL_LENGTH = 4096
"""GenAI takes a KV cache of `search.max_length` at once: the whole context of today's models is gigabytes of it."""


def usual_length(settings: GenerationSettings, asked: int | None) -> int:
    """Tokens of prompt and answer that an app gets without asking: those of `--seq-len`, else as many as are usual."""
    return settings.context_length if asked is not None else min(settings.context_length, USUAL_LENGTH)


def traced_config(
    config: Mapping[str, Any], settings: GenerationSettings, asked: int | None = None
) -> dict[str, Any]:
    """For a graph whose past grows (no shared buffer); empty where GenAI does not run the family."""
    family = FAMILIES[config["model_type"]]
    if family.genai_type is None:
        return {}
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": "model.onnx",
        "head_size": head_size(config),
        "hidden_size": int(config["hidden_size"]),
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
        "num_attention_heads": int(config["num_attention_heads"]),
        "num_hidden_layers": settings.cache.layers,
        "num_key_value_heads": settings.cache.heads,
    }
    model = {
        "type": family.genai_type,
        "vocab_size": settings.vocabulary,
        "context_length": settings.context_length,
        "decoder": decoder,
    }
    return with_tokens({"model": model, "search": {}}, config, settings, asked)


def with_tokens(
    document: Mapping[str, Any],
    config: Mapping[str, Any],
    settings: GenerationSettings,
    asked: int | None = None,
) -> dict[str, Any]:
    """A GenAI config with the bundle's stop tokens and lengths, whichever road made it.

    Args:
        document: as the road made it.
        config: of the model.
        settings: of the bundle.
        asked: context in tokens that the user named; None for the model's own.
    """
    stop = list(settings.stop_ids)
    decoder = {
        name: value for name, value in document["model"]["decoder"].items() if name != "sliding_window"
    }
    model = {**document["model"], "decoder": decoder, "context_length": settings.context_length}
    if stop:
        model["eos_token_id"] = stop if len(stop) > 1 else stop[0]
        model["pad_token_id"] = (
            config.get("pad_token_id") if config.get("pad_token_id") is not None else stop[0]
        )
    if config.get("bos_token_id") is not None:
        model["bos_token_id"] = config["bos_token_id"]
    search = {
        **document["search"],
        **_search(settings, usual_length(settings, asked)),
        "past_present_share_buffer": settings.cache.shares_buffer,
    }
    return {"model": model, "search": search}


def _search(settings: GenerationSettings, length: int) -> dict[str, Any]:
    sampling = settings.sampling
    return {
        "do_sample": sampling.do_sample,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or 50,
        "repetition_penalty": sampling.repetition_penalty,
        "max_length": length,
        "min_length": 0,
        "num_beams": 1,
        "num_return_sequences": 1,
        "past_present_share_buffer": settings.cache.shares_buffer,
    }
