"""Families of decoders, one file each: names, roles, sizes, and how llama.cpp has them, both ways.

Adding a family is a file with a `FAMILY`, a line in the table below, and a tiny model in the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edgeq.families import gemma, gemma2, gemma3_text, gpt2, llama, mistral, phi3, qwen2, qwen3
from edgeq.families.family import DecoderFamily
from edgeq.families.model_shape import ModelShape, SizeConfig

FAMILIES: Mapping[str, DecoderFamily] = {
    "llama": llama.FAMILY,
    "mistral": mistral.FAMILY,
    "qwen2": qwen2.FAMILY,
    "qwen3": qwen3.FAMILY,
    "gemma2": gemma2.FAMILY,
    "gemma3_text": gemma3_text.FAMILY,
    "phi3": phi3.FAMILY,
    "gpt2": gpt2.FAMILY,
}
"""Every decoder that is taken in, by `model_type`."""
SHAPES: Mapping[str, Callable[[SizeConfig], ModelShape]] = {
    **{name: family.shape for name, family in FAMILIES.items()},
    "gemma": gemma.shape,
}
"""Sizes from a config: also of families that are not taken in, since advice comes before work."""
BY_GGUF_NAME: Mapping[str, DecoderFamily] = {
    family.gguf.name: family for family in FAMILIES.values() if family.gguf.is_read
}
"""By `general.architecture` of a file."""

__all__ = ["BY_GGUF_NAME", "FAMILIES", "SHAPES", "DecoderFamily"]
