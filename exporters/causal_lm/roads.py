"""By which road a decoder's graph comes: the model builder of ONNX Runtime GenAI, or torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeq.families import FAMILIES
from edgeq.families.positions import rope_settings, rope_type
from edgeq.families.rope import head_size

HEAD_SIZE_STEP = 16
"""GroupQueryAttention of ONNX Runtime's CPU provider rotates heads whose size is a multiple of this."""
BUILDER_ROPES = ("default", "llama3")
"""Types of rotary positions that the model builder makes as the model has them."""


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
