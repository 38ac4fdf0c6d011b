"""Rows of a weight to GGUF blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeq.errors import ModelError
from edgeq.numerics import FP16_MAX, ByteArray
from edgeq.quantize.ggml.feedback import feed_back
from edgeq.quantize.ggml.grid import Parameters, encode, from_sub_blocks, to_sub_blocks
from edgeq.quantize.ggml.packing import pack_rows
from edgeq.quantize.ggml.search import search
from edgeq.quantize.ggml.super_blocks import share_scales
from edgeq.quantize.ggml.types import BlockType
from edgeq.quantize.weight_only.gptq import Hessian
from edgeq.types import FloatArray

_CHUNK = 1 << 18
"""Weights searched at a time: 1 MB of float32, so that temporaries stay in cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What calibration says about a layer's input.

    Attributes:
        importance: E[x^2] of each input channel over their mean, `[K]`.
        hessian: the factorized X^T X; None rounds each weight to its nearest code.
    """

    importance: FloatArray
    hessian: Hessian | None = None


def quantize_rows(rows: FloatArray, kind: BlockType, evidence: Evidence | None = None) -> ByteArray:
    """Quantize `rows [N, K]`.

    Args:
        rows: output channels.
        kind: the block type; K is a multiple of its block.
        evidence: without it every weight's error costs the same.

    Returns:
        `[N, bytes of a row]`.

    Raises:
        ModelError: values that are not finite, or beyond what the type's float16 can hold.
        ValueError: rows are no whole blocks.
    """
    _check(rows, kind)
    if evidence is not None and evidence.hessian is not None:
        return _with_feedback(rows, kind, evidence)
    step = max(1, _CHUNK // rows.shape[1])
    parts = []
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        found, codes = fit_rows(part, kind, evidence)
        parts.append(pack_rows(codes, found, kind))
    return np.concatenate(parts)


def fit_rows(
    rows: FloatArray, kind: BlockType, evidence: Evidence | None = None
) -> tuple[Parameters, FloatArray]:
    """Parameters for `rows [N, K]`, and the nearest codes `[N, K]`."""
    x = to_sub_blocks(rows, kind)
    weights = _costs(rows, x, kind, evidence)
    fit = search(x, weights, kind)
    found = share_scales(x, weights, fit, kind) if kind.is_super else Parameters(*fit)
    return found, from_sub_blocks(encode(x, found.steps(), found.offsets(), kind))


def _with_feedback(rows: FloatArray, kind: BlockType, evidence: Evidence) -> ByteArray:
    """Some rows at a time, each solved over all its columns."""
    assert evidence.hessian is not None
    step = max(1, 16 * _CHUNK // rows.shape[1])
    parts = []
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        found, codes = fit_rows(part, kind, evidence)
        steps, offsets = per_weight(found, kind)
        parts.append(pack_rows(feed_back(part, steps, offsets, codes, evidence.hessian, kind), found, kind))
    return np.concatenate(parts)


def per_weight(found: Parameters, kind: BlockType) -> tuple[FloatArray, FloatArray]:
    """Step and offset of every weight, `[N, K]`."""
    steps, offsets = found.steps(), found.offsets()
    spread = np.repeat(steps, kind.members, axis=1)
    return spread, np.zeros_like(spread) if offsets is None else np.repeat(offsets, kind.members, axis=1)


def _costs(rows: FloatArray, x: FloatArray, kind: BlockType, evidence: Evidence | None) -> FloatArray:
    """What an error of each weight costs, in a shape that broadcasts to `[members, rows, sub-blocks]`.

    Coarse types care more for large weights, by llama.cpp's factor, though a layer's squared output error has the plain
    E[x^2]: it matters where codes stay the nearest ones, and hardly where they are chosen by their effect.
    """
    importance = np.ones(rows.shape[1], np.float32) if evidence is None else evidence.importance
    weights = to_sub_blocks(importance[None], kind)
    if not kind.is_coarse:
        return weights
    energy = (2 if kind.is_super else 1) * np.square(rows).mean(1)
    return np.asarray(weights * np.sqrt(energy[None, :, None] + np.square(x)), np.float32)


def _check(rows: FloatArray, kind: BlockType) -> None:
    if rows.ndim != 2 or rows.shape[1] % kind.block:
        raise ValueError(f"rows {rows.shape} for blocks of {kind.block}")
    largest = float(np.abs(rows).max(initial=0))
    if not np.isfinite(largest):
        raise ModelError(f"a weight of shape {list(rows.shape)} has NaN or infinite values")
    if largest > FP16_MAX:
        raise ModelError(
            f"a weight of shape {list(rows.shape)} has values up to {largest:.3g}; the float16 scales of {kind.name} "
            f"reach {FP16_MAX:.0f}",
            hint="--precision fp32 or bf16",
        )
