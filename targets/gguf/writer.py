"""Writes a GGUF file a tensor at a time; held are one tensor, and the statistics of the layers that come next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.errors import ModelError
from edgeq.families.rope import FACTORS, rope_factors
from edgeq.numerics import FP16_MAX
from edgeq.quantize.ggml import BLOCK_TYPES, Evidence, quantize_rows
from edgeq.quantize.gram_parts import in_parts
from edgeq.quantize.streaming.external_data import full_disk_as_error
from edgeq.quantize.weight_only.gptq import MIN_TOKENS_PER_CHANNEL, factorize
from edgeq.quantize.weight_only.quantized_weight import LayerStats, checked_importance
from edgeq.targets.gguf.file_types import FILE_TYPES
from edgeq.targets.gguf.metadata import add_metadata, add_tokenizer
from edgeq.targets.gguf.tensors import TABLE, PlannedTensor, architecture_of, plan_tensors
from edgeq.targets.gguf.vocabulary import read_vocabulary
from edgeq.types import Array

if TYPE_CHECKING:
    from edgeq.targets.target import CheckpointInput


def write_gguf(source: CheckpointInput, file_type: str, path: Path) -> list[str]:
    """Write the file.

    Args:
        source: the model.
        file_type: a key of `FILE_TYPES`.
        path: of the file.

    Returns:
        What a reader of the report should know.

    Raises:
        UnsupportedError: llama.cpp would run this model or its tokenizer as something else.
        ModelError: values that cannot be stored.
        OutputError: the disk is full.
    """
    import gguf

    shapes = {name: tensor.shape for name, tensor in source.tensors.items()}
    planned = plan_tensors(shapes, source.config, file_type)
    table = next(tensor for tensor in planned if tensor.name == TABLE)
    vocabulary = read_vocabulary(source.tokenizer_json, table.shape[0])
    architecture = architecture_of(source.config)
    writer = gguf.GGUFWriter(None, architecture.name)
    add_metadata(
        writer, source, FILE_TYPES[file_type], architecture.metadata(source.config), vocabulary.tokens
    )
    add_tokenizer(writer, source, vocabulary)
    factors = rope_factors(source.config)
    if factors is not None:
        writer.add_tensor_info(FACTORS, factors.shape, factors.dtype, factors.nbytes)
    for tensor in planned:
        kind = gguf.GGMLQuantizationType[tensor.kind]
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, kind)
    with full_disk_as_error(path):
        try:
            nearest = _write(writer, source, planned, factors, path)
        finally:
            writer.close()
    return [*vocabulary.notes, *_fallback_notes(planned, file_type), *_nearest_notes(nearest)]


def _write(
    writer: Any,
    source: CheckpointInput,
    planned: Sequence[PlannedTensor],
    factors: Array | None,
    path: Path,
) -> list[PlannedTensor]:
    """Write everything; returns the matrices whose codes could not be chosen by their effect."""
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    nearest, latest = [], _Latest()
    for part in in_parts(planned, _gram_bytes):
        stats = _observed(source, part)
        for tensor in part:
            found = latest.evidence(stats.get(tensor.parameter))
            writer.write_tensor_data(_data(tensor, source, found))
            if found is not None and found.hessian is None:
                nearest.append(tensor)
            source.advance()
    return nearest


def _data(tensor: PlannedTensor, source: CheckpointInput, evidence: Evidence | None) -> Array:
    """The bytes of one tensor."""
    pieces = tensor.rows(source.tensors[tensor.parameter], source.config)
    if tensor.is_quantized:
        kind = BLOCK_TYPES[tensor.kind]
        return np.concatenate([quantize_rows(rows, kind, evidence) for rows in pieces])
    return np.concatenate([_as_float(rows, tensor) for rows in pieces])


def _as_float(rows: Array, tensor: PlannedTensor) -> Array:
    """Rows in a float type.

    Raises:
        ModelError: float16 does not reach some values.
    """
    kind = tensor.kind
    if kind == "F16" and np.abs(rows).max(initial=0) > FP16_MAX:
        raise ModelError(
            f"`{tensor.parameter}` has values up to {np.abs(rows).max():.3g}, float16 reaches {FP16_MAX:.0f}",
            hint="--precision bf16 or fp32",
        )
    if kind == "BF16":
        import gguf

        return np.asarray(gguf.quants.quantize(rows, gguf.GGMLQuantizationType.BF16))
    return np.asarray(rows, {"F32": np.float32, "F16": np.float16}[kind])


def _gram_bytes(tensor: PlannedTensor) -> int:
    return 8 * tensor.shape[-1] ** 2 if tensor.is_quantized else 0


def _observed(source: CheckpointInput, part: Sequence[PlannedTensor]) -> Mapping[str, LayerStats]:
    """What calibration says about the inputs of each weight; a table that is only looked up has none."""
    wanted = [tensor.parameter for tensor in part if tensor.is_quantized and not tensor.is_lookup]
    return source.observe(wanted, True) if wanted else {}


class _Latest:
    """Evidence of one activation at a time: weights that read the same one stand side by side."""

    def __init__(self) -> None:
        self._stats: LayerStats | None = None
        self._found: Evidence | None = None

    def evidence(self, stats: LayerStats | None) -> Evidence | None:
        """Of some statistics; None for none."""
        if stats is not self._stats:
            # Freed first: a factorized X^T X of a wide layer takes as much as the layer.
            self._found = None
            self._stats, self._found = stats, None if stats is None else evidence_of(stats)
        return self._found


def evidence_of(stats: LayerStats) -> Evidence:
    """Statistics of one activation, its X^T X factorized where there were tokens enough."""
    channels = len(stats.mean_square)
    importance = checked_importance(stats, channels)
    if stats.gram is None or stats.tokens < MIN_TOKENS_PER_CHANNEL * channels or not stats.gram.any():
        return Evidence(importance)
    return Evidence(importance, factorize(stats.gram))


def _nearest_notes(tensors: Sequence[PlannedTensor]) -> list[str]:
    """How many matrices had too few calibration tokens, and how many they would need."""
    if not tensors:
        return []
    needed = MIN_TOKENS_PER_CHANNEL * max(tensor.shape[-1] for tensor in tensors)
    return [
        f"{len(tensors)} matrices are rounded to the nearest codes: choosing them by their effect takes "
        f"{MIN_TOKENS_PER_CHANNEL} calibration tokens per input that is not zero, {needed} for the widest; "
        "--calib takes longer texts"
    ]


def _fallback_notes(planned: Sequence[PlannedTensor], file_type: str) -> list[str]:
    """Where rows are no whole blocks, how many weights got another type."""
    block = BLOCK_TYPES.get(FILE_TYPES[file_type].tensor_type)
    if block is None:
        return []
    odd = [tensor for tensor in planned if tensor.kind != "F32" and tensor.shape[-1] % block.block]
    if not odd:
        return []
    kinds = ", ".join(sorted({tensor.kind for tensor in odd}))
    return [
        f"{len(odd)} of {sum(tensor.kind != 'F32' for tensor in planned)} matrices have rows that are no multiple of "
        f"{block.block}, and are stored as {kinds}, as llama.cpp would"
    ]
