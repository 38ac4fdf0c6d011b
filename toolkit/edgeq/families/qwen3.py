"""Qwen3 (Yang et al., arXiv:2505.09388): Llama with a norm on each query and key head, whose width is its own."""

from __future__ import annotations

from edgeq.families import gated
from edgeq.families.family import DecoderFamily, GgufForm
from edgeq.families.model_shape import ModelShape, SizeConfig
from edgeq.families.qwen2 import config_of


def _shape(config: SizeConfig) -> ModelShape:
    biased = config.flag("attention_bias", default=False)
    return gated.gated_shape(config, tied=False, qkv_bias=biased, o_bias=biased, head_norms=2, head_dim=128)


FAMILY = DecoderFamily(
    model_type="qwen3",
    head="Qwen3ForCausalLM",
    roles=gated.ROLES,
    shape=_shape,
    gguf=GgufForm("qwen3", gated.metadata_of, config_of, check=gated.check_silu),
    genai_type="qwen3",
    has_builder=True,
)
