"""Rotary tables and windows of a decoder that transformers made."""

from __future__ import annotations

from typing import Any


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
