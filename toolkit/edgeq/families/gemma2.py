"""Gemma 2 (Gemma Team, arXiv:2408.00118): a norm before and after each part, every other layer sees a window."""

from __future__ import annotations

from typing import Any

from edgeq.families import gated
from edgeq.families.changes import ONE_MORE, Config
from edgeq.families.family import DecoderFamily, GgufForm, Metadata
from edgeq.families.gguf_file import GgufFile
from edgeq.families.model_shape import ModelShape, SizeConfig
from edgeq.families.rope import head_size

LARGEST_LAYERS = 46
PERIOD = 2


def _shape(config: SizeConfig) -> ModelShape:
    return gated.gated_shape(config, tied=True, norms=4, head_dim=256)


def _metadata(config: Config) -> Metadata:
    return (
        gated.metadata_of(config)
        | {
            "attn_logit_softcapping": float(config["attn_logit_softcapping"]),
            "final_logit_softcapping": float(config["final_logit_softcapping"]),
        }
        | gated.window_metadata(config, PERIOD)
    )


def config_of(file: GgufFile, *, largest_layers: int, period: int) -> dict[str, Any]:
    """What Gemma 2 and 3 read in a file.

    Args:
        file: the model.
        largest_layers: of the largest model of the generation, which scales queries by the width of its heads' share,
            not by their size.
        period: every n-th layer sees everything.
    """
    config = gated.config_of(file)
    is_largest = config["num_hidden_layers"] == largest_layers
    scalar = config["hidden_size"] / config["num_attention_heads"] if is_largest else config["head_dim"]
    return {
        **config,
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "query_pre_attn_scalar": scalar,
        "sliding_window": int(file.value("attention.sliding_window", int)),
        "layer_types": gated.layer_types(file, config["num_hidden_layers"], period),
    }


def _config(file: GgufFile) -> dict[str, Any]:
    return {
        **config_of(file, largest_layers=LARGEST_LAYERS, period=PERIOD),
        "attn_logit_softcapping": file.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": file.number("final_logit_softcapping", 30.0),
    }


def check(config: Config, largest_layers: int = LARGEST_LAYERS) -> None:
    """llama.cpp scales queries by the head size, in the largest model of a generation by the share of the width."""
    gated.expect(config, "hidden_activation", "gelu_pytorch_tanh")
    is_largest = config["num_hidden_layers"] == largest_layers
    expected = config["hidden_size"] // config["num_attention_heads"] if is_largest else head_size(config)
    gated.expect(config, "query_pre_attn_scalar", expected)


FAMILY = DecoderFamily(
    model_type="gemma2",
    head="Gemma2ForCausalLM",
    roles=gated.ROLES,
    shape=_shape,
    gguf=GgufForm("gemma2", _metadata, _config, (ONE_MORE,), check, has_windows=True),
    genai_type="gemma2",
    has_builder=True,
)
