"""Llama (Touvron et al., arXiv:2302.13971): grouped-query attention and a gated feed-forward, without biases."""

from __future__ import annotations

from typing import Any

from edgeq.errors import UnsupportedError
from edgeq.families import gated
from edgeq.families.changes import Config, rotated
from edgeq.families.family import DecoderFamily, GgufForm, Metadata
from edgeq.families.gguf_file import GgufFile
from edgeq.families.model_shape import ModelShape, SizeConfig
from edgeq.families.rope import head_size


def shape(config: SizeConfig) -> ModelShape:
    """Sizes."""
    biased = config.flag("attention_bias", default=False)
    return gated.gated_shape(config, tied=False, qkv_bias=biased, o_bias=biased)


def _metadata(config: Config) -> Metadata:
    rotated_size = {"vocab_size": int(config["vocab_size"]), "rope.dimension_count": head_size(config)}
    return gated.metadata_of(config) | rotated_size


def _config(file: GgufFile) -> dict[str, Any]:
    if int(file.value("expert_count", int, 0)) > 0:
        raise UnsupportedError(f"`{file.path}` is a mixture of experts, which is not supported")
    return {
        **gated.config_of(file),
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
    }


FAMILY = DecoderFamily(
    model_type="llama",
    head="LlamaForCausalLM",
    roles=gated.ROLES,
    shape=shape,
    gguf=GgufForm(
        "llama",
        _metadata,
        _config,
        (rotated("q", "num_attention_heads"), rotated("k", "num_key_value_heads")),
        gated.check_silu,
    ),
    genai_type="llama",
    has_builder=True,
)
