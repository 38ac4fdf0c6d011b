"""Keys of `config.json` that change what a model computes and that nobody here carries out.

transformers drops what its config class does not know without a word, so that a key of an older version, or of another
library, is missing from the original as this machine runs it and from the export alike.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any

from edgeq.errors import ModelError

DEFAULTS: Mapping[str, tuple[Any, ...]] = {
    "position_embedding_type": ("absolute", None),
    "alibi_starting_size": (None,),
    "attention_window": (None,),
    "use_flash_attn": (False, None),
    "scale_attn_by_inverse_layer_idx": (False, None),
    "prune_heads": ({}, None),
    "pruned_heads": ({}, None),
    "chunk_size_feed_forward": (0, None),
}
"""Keys that transformers 5 no longer reads or edgeq does not carry out, with the values that change nothing."""

NAMED: Mapping[str, str] = {
    "use_flash_attn": "attention is computed in plain products",
    "chunk_size_feed_forward": "the whole sequence is computed at once, which gives the same numbers",
}
"""Those of them that leave the numbers as they are."""

HARMLESS = frozenset(
    (
        "adapters",
        "architectures",
        "auto_map",
        "classifier_activation",
        "classifier_pooling",
        "directionality",
        "down_scale_factor",
        "finetuning_task",
        "gradient_checkpointing",
        "language",
        "model_name",
        "model_type",
        "name",
        "net_structure_type",
        "num_hidden_groups",
        "output_past",
        "problem_type",
        "quantization_config",
        "sbert_ce_default_activation_function",
        "sentence_transformers",
        "task_specific_params",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    )
)
"""Keys outside the config classes of transformers that published encoders carry: of training, of pretraining heads, of
other libraries, or read elsewhere. None changes what the encoder or its head computes."""
HARMLESS_BEGINNINGS = ("pooler_", "summary_", "_")


def _unusual(config: Mapping[str, Any]) -> Iterator[str]:
    for key, usual in DEFAULTS.items():
        if key in config and config[key] not in usual:
            yield key


def refuse_keys(config: Mapping[str, Any]) -> ModelError | None:
    """Why a config asks for something else than would be exported; None where it does not."""
    for key in _unusual(config):
        if key not in NAMED:
            return ModelError(
                f"config.json sets {key} to {config[key]!r:.60}, which neither transformers 5 nor edgeq carries out",
                hint="another checkpoint of the model, without it, can be exported",
            )
    return None


def config_notices(config: Mapping[str, Any]) -> Iterator[str]:
    """What a config asks for that is done otherwise, for people."""
    for key in _unusual(config):
        if key in NAMED:
            yield f"config.json sets {key} to {config[key]!r:.60}: {NAMED[key]}"


def unknown_keys(config: Mapping[str, Any], known: Container[str]) -> tuple[str, ...]:
    """Keys of a config that its class in transformers does not have, sorted, those that change nothing left out.

    Args:
        config: as `config.json` holds it.
        known: names of the class's own settings.
    """
    return tuple(
        key
        for key in sorted(config)
        if key not in known
        and key not in HARMLESS
        and key not in DEFAULTS
        and not key.startswith(HARMLESS_BEGINNINGS)
    )
