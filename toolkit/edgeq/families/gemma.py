"""Gemma (Gemma Team, arXiv:2403.08295): Llama with wide heads and a tied table. Its sizes alone are known."""

from __future__ import annotations

from edgeq.families import gated
from edgeq.families.model_shape import ModelShape, SizeConfig


def shape(config: SizeConfig) -> ModelShape:
    """Sizes."""
    return gated.gated_shape(config, tied=True, head_dim=256)
