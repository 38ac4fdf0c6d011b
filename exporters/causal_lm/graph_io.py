"""Names, shapes and roles of a decoder graph's inputs and outputs, the same for both roads."""

from __future__ import annotations

from edgeq.graph.component import BATCH, SEQUENCE
from edgeq.types import Role, TensorSpec

TOTAL = "total_sequence"
PAST = "past_sequence"
INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
LOGITS = "logits"


def past_names(layers: int) -> list[str]:
    """`past_key_values.0.key`, `past_key_values.0.value`, ..."""
    return [f"past_key_values.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]


def present_names(layers: int) -> list[str]:
    """`present.0.key`, `present.0.value`, ..."""
    return [f"present.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]


def input_specs(layers: int, heads: int, size: int) -> tuple[TensorSpec, ...]:
    """Token ids, mask and past."""
    return (
        TensorSpec(INPUT_IDS, "int64", (BATCH, SEQUENCE), Role.TOKEN_IDS),
        TensorSpec(ATTENTION_MASK, "int64", (BATCH, TOTAL), Role.ATTENTION_MASK),
        *(TensorSpec(name, "float32", (BATCH, heads, PAST, size), Role.PAST) for name in past_names(layers)),
    )


def output_specs(layers: int, heads: int, size: int, vocabulary: int) -> tuple[TensorSpec, ...]:
    """Logits and present."""
    return (
        TensorSpec(LOGITS, "float32", (BATCH, SEQUENCE, vocabulary), Role.LOGITS),
        *(
            TensorSpec(name, "float32", (BATCH, heads, TOTAL, size), Role.PRESENT)
            for name in present_names(layers)
        ),
    )
