"""Qwen2 (Yang et al., arXiv:2407.10671): Llama with biases on queries, keys and values."""

from __future__ import annotations

from typing import Any

from edgeq.families import gated
from edgeq.families.family import DecoderFamily, GgufForm
from edgeq.families.gguf_file import GgufFile
from edgeq.families.model_shape import ModelShape, SizeConfig


def _shape(config: SizeConfig) -> ModelShape:
    return gated.gated_shape(config, tied=False, qkv_bias=True)


def config_of(file: GgufFile) -> dict[str, Any]:
    """A file's metadata as a config."""
    return {
        **gated.config_of(file),
        "hidden_act": "silu",
        "use_sliding_window": False,
        "attention_bias": False,
    }


FAMILY = DecoderFamily(
    model_type="qwen2",
    head="Qwen2ForCausalLM",
    roles=gated.ROLES,
    shape=_shape,
    gguf=GgufForm("qwen2", gated.metadata_of, config_of, check=gated.check_silu),
    genai_type="qwen2",
    has_builder=True,
)
