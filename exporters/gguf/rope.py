"""Rotary positions as a GGUF file describes them, in transformers' words."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.exporters.gguf.reader import GgufFile
from edgeq.types import Array

FACTORS = "rope_freqs.weight"
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""What Llama 3.1 to 3.3 have; the file keeps only the factors that follow from them."""


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


def llama3_factors(count: int, theta: float, settings: dict[str, Any]) -> Array:
    """By what each frequency is divided (Llama 3.1: high ones are kept, low ones divided, a ramp between)."""
    frequencies = theta ** -(np.arange(count) / count)
    turns = settings["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = settings["low_freq_factor"], settings["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - kept) / settings["factor"] + kept), np.float32)
