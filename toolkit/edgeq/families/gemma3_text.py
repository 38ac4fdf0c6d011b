"""Gemma 3 (Gemma Team, arXiv:2503.19786): Gemma 2 with a norm on each query and key head, fewer layers that see all."""

from __future__ import annotations

from typing import Any

from edgeq.families import gated, gemma2
from edgeq.families.changes import ONE_MORE, Config
from edgeq.families.family import DecoderFamily, GgufForm, Metadata
from edgeq.families.gguf_file import GgufFile
from edgeq.families.model_shape import ModelShape, SizeConfig

LARGEST_LAYERS = 62
PERIOD = 6


def _shape(config: SizeConfig) -> ModelShape:
    return gated.gated_shape(config, tied=True, norms=4, head_norms=2, head_dim=256)


def _metadata(config: Config) -> Metadata:
    found = gated.metadata_of(config)
    if config.get("final_logit_softcapping"):
        found["final_logit_softcapping"] = float(config["final_logit_softcapping"])
    local = config["rope_parameters"].get("sliding_attention") or {}
    if local:
        found["rope.freq_base_swa"] = float(local["rope_theta"])
    return found | gated.window_metadata(config, PERIOD)


def _config(file: GgufFile) -> dict[str, Any]:
    config = gemma2.config_of(file, largest_layers=LARGEST_LAYERS, period=PERIOD)
    local = {"rope_type": "default", "rope_theta": file.number("rope.freq_base_swa", 10000.0)}
    return {
        **config,
        # 0 where the model caps nothing, as Gemma 3's own releases.
        "final_logit_softcapping": file.number("final_logit_softcapping", 0.0) or None,
        "rope_parameters": {"full_attention": config["rope_parameters"], "sliding_attention": local},
    }


def _check(config: Config) -> None:
    gemma2.check(config, LARGEST_LAYERS)
    gated.expect(config, "attn_logit_softcapping", None)


FAMILY = DecoderFamily(
    model_type="gemma3_text",
    head="Gemma3ForCausalLM",
    roles=gated.ROLES,
    shape=_shape,
    gguf=GgufForm("gemma3", _metadata, _config, (ONE_MORE,), _check, has_windows=True),
    genai_type="gemma3_text",
    # 0.18 fails on its rotary positions as transformers 5 describes them.
    has_builder=False,
)
