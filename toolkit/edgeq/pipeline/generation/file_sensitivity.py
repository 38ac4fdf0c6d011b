"""What each tensor of a file made of a checkpoint costs alone: the original, with that one as the file has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.memory import free_memory
from edgeq.quantize.segmented.values import ValueStore
from edgeq.quantize.sensitivity import (
    EXPECTED_BYTES,
    Candidate,
    LayerEffect,
    causes_of,
    effect_of,
    rank,
)
from edgeq.text_inputs import INPUT_IDS
from edgeq.types import Array, Feeds, FloatArray

if TYPE_CHECKING:
    from edgeq.exporters.causal_lm.original import OriginalLanguageModel
    from edgeq.progress import Progress
    from edgeq.targets.target import CheckpointTarget
    from edgeq.tasks import Head


BYTES_PER_VALUE = 32
"""Of the tensor that is measured: its two forms in float32, and three times in float64 while they are compared."""


def require_room(original: OriginalLanguageModel) -> None:
    """Refuse a model whose largest tensor cannot be measured in the memory that is free, before anything is written.

    Raises:
        UnsupportedError: it cannot.
    """
    largest = max(tensor.size for tensor in original.tensors.values())
    needed, free = BYTES_PER_VALUE * largest, free_memory()
    if free is not None and needed > free:
        raise UnsupportedError(
            f"--sensitivity holds one tensor at a time, and the largest of this model takes {needed / 1e9:.1f} GB; "
            f"{free / 1e9:.1f} GB are free",
            hint="leave --sensitivity out",
        )


def file_sensitivity(
    target: CheckpointTarget,
    model: Path,
    original: OriginalLanguageModel,
    head: Head,
    batches: Sequence[Feeds],
    progress: Progress,
) -> list[LayerEffect]:
    """Every tensor that is stored as codes, most harmful first, by the divergence of the next token.

    Inputs stay unrounded: what the runtime makes of them is no tensor's own. One tensor at a time is held beside the
    original, whose own are read as it runs.

    Args:
        target: that made the file.
        model: the file.
        original: what it was made of.
        head: the logits.
        batches: windows of tokens, each from an empty cache.
        progress: two stages.

    Raises:
        ModelError: the file is damaged, or of another model.
    """
    shapes = {name: tensor.shape for name, tensor in original.tensors.items()}
    values = target.read_back(model, original.config, shapes)
    formats = target.formats(model, original.config, shapes)
    if not formats:
        return []
    output = head.outputs[0].name
    ids: list[Array] = [feeds[INPUT_IDS] for feeds in batches]
    expected = ValueStore(EXPECTED_BYTES)
    with progress.stage("running the original", len(ids)) as stage:
        for sequence in ids:
            expected.append({output: original.reference(sequence)})
            stage.advance()
    effects = []
    with progress.stage("tensor by tensor", len(formats)) as stage:
        for name, kind in formats.items():
            value = values[name]
            found = _compare(original, {name: value}, head, ids, expected)
            candidate = Candidate(_layer(original, name), kind.lower(), value.T)
            causes = causes_of(_whole(original, name).T, candidate)
            effects.append(effect_of(candidate, found, head, causes))
            stage.advance()
    expected.close()
    return rank(effects)


def _compare(
    original: OriginalLanguageModel,
    changed: Mapping[str, FloatArray],
    head: Head,
    ids: Sequence[Array],
    expected: ValueStore,
) -> list[dict[str, float]]:
    run = original.with_weights(changed)
    comparisons = head.compare_each()
    for sequence, outputs in zip(ids, expected, strict=True):
        head.compare_batch(comparisons, outputs, {head.outputs[0].name: run(sequence)}, None)
    return [comparison.metrics() for comparison in comparisons]


def _layer(original: OriginalLanguageModel, parameter: str) -> str:
    """The layer's name, as the graphs of language models have it."""
    return parameter.removeprefix(f"{original.model.base_model_prefix}.").removesuffix(".weight")


def _whole(original: OriginalLanguageModel, name: str) -> FloatArray:
    rows: Iterator[FloatArray] = original.tensors[name].rows()
    return np.concatenate(list(rows))
