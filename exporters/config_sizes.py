"""Sizes that a config asks for, before anything is made of them: a damaged number must not become memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeq.errors import ModelError

LARGEST: Mapping[str, int] = {
    "vocab_size": 1 << 24,
    "hidden_size": 1 << 17,
    "n_embd": 1 << 17,
    "dim": 1 << 17,
    "embedding_size": 1 << 17,
    "intermediate_size": 1 << 20,
    "n_inner": 1 << 20,
    "hidden_dim": 1 << 20,
    "head_dim": 1 << 14,
    "num_hidden_layers": 1 << 12,
    "n_layer": 1 << 12,
    "n_layers": 1 << 12,
    "num_attention_heads": 1 << 12,
    "n_head": 1 << 12,
    "n_heads": 1 << 12,
    "num_key_value_heads": 1 << 12,
    "max_position_embeddings": 1 << 28,
    "n_positions": 1 << 28,
}
"""Keys that are whole numbers above 0, with a bound that no model comes near; null where they do not apply."""
WIDTHS, HEADS = ("hidden_size", "n_embd", "dim"), ("num_attention_heads", "n_head", "n_heads")


def refusal_of_sizes(config: Mapping[str, Any]) -> ModelError | None:
    """Why no model can have these sizes; None where one can."""
    for key, largest in LARGEST.items():
        value = config.get(key)
        if value is None:
            continue
        if type(value) is not int or not 1 <= value <= largest:
            return ModelError(
                f"`{key}` in config.json is {value!r:.40}, expected a whole number from 1 to {largest}",
                hint="config.json is damaged: download it again",
            )
    width, heads = _first(config, WIDTHS), _first(config, HEADS)
    if width and heads and not config.get("head_dim") and width % heads:
        return ModelError(
            f"{width} values per token in config.json cannot be divided among {heads} attention heads",
            hint="config.json is damaged: download it again",
        )
    groups = config.get("num_key_value_heads")
    if heads and groups and heads % groups:
        return ModelError(f"{heads} attention heads in config.json cannot share {groups} key and value heads")
    return None


def _first(config: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    return next((config[key] for key in keys if config.get(key)), None)
