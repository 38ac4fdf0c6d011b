"""Phi-3 (Abdin et al., arXiv:2404.14219): Llama with q, k and v in one matrix, and gate and up in another."""

from __future__ import annotations

from typing import Any

from edgeq.errors import UnsupportedError
from edgeq.families import gated
from edgeq.families.changes import Config
from edgeq.families.family import DecoderFamily, GgufForm, Metadata
from edgeq.families.gguf_file import GgufFile
from edgeq.families.model_shape import ModelShape, SizeConfig
from edgeq.families.rope import head_size, rope


def _shape(config: SizeConfig) -> ModelShape:
    return gated.gated_shape(config, tied=False, fused=True)


def _metadata(config: Config) -> Metadata:
    rotated = int(head_size(config) * rope(config).get("partial_rotary_factor", 1.0))
    return gated.metadata_of(config) | {
        "rope.dimension_count": rotated,
        "rope.scaling.original_context_length": int(config["original_max_position_embeddings"]),
        # llama.cpp does not slide Phi's window; 0 tells it that there is none.
        "attention.sliding_window": int(config.get("sliding_window") or 0),
    }


def _config(file: GgufFile) -> dict[str, Any]:
    if any(name.startswith("rope_factors") for name in file.tensors):
        raise UnsupportedError(
            f"`{file.path}` has rotary positions of type longrope, which change with the length of the text",
            hint="export a model with a short context (phi-3 4k)",
        )
    window = int(file.value("attention.sliding_window", int, 0))
    original = file.count("rope.scaling.original_context_length", file.count("context_length"))
    return {
        **gated.config_of(file),
        "hidden_act": "silu",
        "original_max_position_embeddings": original,
        "sliding_window": window or None,
    }


FAMILY = DecoderFamily(
    model_type="phi3",
    head="Phi3ForCausalLM",
    roles=gated.ROLES | {"attn.qkv_proj": "attention.qkv", "mlp.gate_up_proj": "ffn.gate_up"},
    shape=_shape,
    gguf=GgufForm("phi3", _metadata, _config, check=gated.check_silu),
    genai_type="phi3",
    has_builder=True,
    # The first configs named longrope so.
    rope_aliases={"su": "longrope", "yarn": "longrope"},
    trained_positions=4096,
)
