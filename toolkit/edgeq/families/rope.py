"""Rotary positions of a config and of a GGUF file, each in the words of the other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.families.changes import Config
from edgeq.families.gguf_file import GgufFile
from edgeq.types import FloatArray

FACTORS = "rope_freqs.weight"
"""The tensor of a file that no parameter takes."""
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""What Llama 3.1 to 3.3 have; the file keeps only the factors that follow from them."""
WRITTEN_ROPES = ("default", "linear", "llama3", "dynamic")
"""Types of rotary positions that a file can say; `dynamic` is the default one up to the model's own context."""


def head_size(config: Config) -> int:
    """Values per attention head."""
    explicit = config.get("head_dim")
    if explicit:
        return int(explicit)
    heads = config.get("num_attention_heads") or config["n_head"]
    return int(config.get("hidden_size") or config["n_embd"]) // int(heads)


def rope(config: Config) -> Mapping[str, Any]:
    """Rotary positions of the layers that see everything."""
    found = config.get("rope_parameters") or {}
    return found.get("full_attention", found) if isinstance(found, Mapping) else {}


def check_rope(config: Config) -> None:
    """Refuse rotary positions that a file would not say: llama.cpp would run others.

    Raises:
        UnsupportedError: `longrope`, `yarn` and what else has a table of its own.
    """
    found = config.get("rope_parameters") or {}
    for settings in (value for value in (found, *found.values()) if isinstance(value, Mapping)):
        kind = settings.get("rope_type", "default")
        if kind not in WRITTEN_ROPES:
            raise UnsupportedError(
                f"rotary positions of type `{kind}` are not written to GGUF files, expected {', '.join(WRITTEN_ROPES)}",
                hint="--target cpu or --target android take them",
            )


def rope_factors(config: Config) -> FloatArray | None:
    """What `FACTORS` holds of a config; None for rotary positions that need no such tensor."""
    settings = rope(config)
    if settings.get("rope_type") != "llama3":
        return None
    return llama3_factors(head_size(config) // 2, settings["rope_theta"], settings)


def rope_parameters(file: GgufFile, partial: float) -> dict[str, Any]:
    """`rope_parameters` of a config.

    Args:
        file: the model.
        partial: share of a head that is rotated.

    Raises:
        UnsupportedError: positions of a type that edgeq does not export, or factors that no known type makes.
    """
    theta = file.number("rope.freq_base", 10000.0)
    found: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    if partial != 1:
        found["partial_rotary_factor"] = partial
    kind = str(file.metadata.get(f"{file.architecture}.rope.scaling.type", "none"))
    if FACTORS in file.tensors:
        return {**found, **_llama3(file, theta)}
    if kind == "linear":
        factor = file.number("rope.scaling.factor")
        return found if factor == 1 else {**found, "rope_type": "linear", "factor": factor}
    if kind != "none":
        raise UnsupportedError(
            f"`{file.path}` has rotary positions of type `{kind}`, which change with the length of the text"
        )
    return found


def _llama3(file: GgufFile, theta: float) -> dict[str, Any]:
    """The `llama3` type whose factors are those of the file, found by trying what Llama's releases have."""
    given = file.tensors[FACTORS].dense()
    settings = {"rope_type": "llama3", "factor": float(given.max()), **LLAMA3}
    if not np.allclose(llama3_factors(len(given), theta, settings), given, rtol=1e-5, atol=0):
        raise UnsupportedError(
            f"`{file.path}` scales its rotary frequencies by factors that are not those of Llama 3",
            hint="export the original checkpoint, whose config says how they are made",
        )
    return settings


def llama3_factors(count: int, theta: float, settings: Mapping[str, Any]) -> FloatArray:
    """By what each frequency is divided (Llama 3.1).

    Low frequencies are divided by `factor`, high ones kept, with a ramp between, by turns over the original context.
    """
    frequencies = theta ** -(np.arange(count) / count)
    turns = settings["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = settings["low_freq_factor"], settings["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - kept) / settings["factor"] + kept), np.float32)
