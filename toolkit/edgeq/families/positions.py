"""Rotary positions of a decoder, by its config: of which type they are, and up to where they are the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeq.families import FAMILIES


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
    family = FAMILIES.get(config["model_type"])
    return family.rope_aliases.get(kind, kind) if family else kind


def constant_positions(config: Mapping[str, Any]) -> int | None:
    """Up to how many tokens the table of rotary positions is the same for every text; None for all of the context.

    `longrope` takes other frequencies for texts longer than the model's first training saw; `dynamic` changes them
    beyond `max_position_embeddings`, which no context goes beyond.
    """
    if rope_type(config) != "longrope":
        return None
    # transformers prefers the key of the config itself, for which Phi-3's class has a default.
    first = config.get("original_max_position_embeddings")
    family = FAMILIES.get(config["model_type"])
    usual = (family and family.trained_positions) or config.get("max_position_embeddings")
    return first or rope_settings(config).get("original_max_position_embeddings") or usual
