"""One weight quantized a few rows at a time, to the bytes that quantizing it whole would give."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np

from edgeq.graph.block_weight import BlockWeight
from edgeq.numerics import ByteArray, dequantize_blocks, join_blocks, split_blocks
from edgeq.quantize.formats import Blocks
from edgeq.quantize.recipes import LayerSpec
from edgeq.quantize.weight_errors import Energy
from edgeq.quantize.weight_only import fit_of
from edgeq.quantize.weight_only.blocks import Fit, fit_parameters
from edgeq.quantize.weight_only.matmul_nbits import to_block_weight
from edgeq.quantize.weight_only.quantized_weight import (
    LayerStats,
    QuantizedWeight,
    checked_importance,
    stored_spec,
)
from edgeq.types import FloatArray

_CACHED = 1 << 16
"""Values rounded at a time: their float32 steps stay in a core's cache."""

_T = TypeVar("_T")
_R = TypeVar("_R")


def default_threads() -> int:
    """Cores of this process, 8 at most: beyond that reading is the bottleneck."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # only on Linux
        cores = os.cpu_count() or 1
    return min(cores, 8)


class MatrixInPieces(Protocol):
    """A matrix read some rows at a time: a stored tensor, or several of them stacked."""

    @property
    def name(self) -> str | None: ...  # noqa: D102

    def peak(self) -> float:
        """The largest magnitude."""

    def rows(self, *, transposed: bool = False) -> Iterator[FloatArray]:
        """Whole rows `[n, columns]`, of the matrix or of its transpose."""


def measured_rows(
    tensor: MatrixInPieces,
    spec: LayerSpec,
    *,
    transposed: bool = False,
    stats: LayerStats | None = None,
    threads: int | None = None,
) -> Iterator[tuple[BlockWeight, Energy]]:
    """Consecutive rows of `tensor` (output channels, `[N, K]`) as packed blocks, each piece with what rounding cost it.

    Args:
        tensor: a matrix; read twice, once for its largest magnitude.
        spec: blocks, by a method that goes by rows.
        transposed: the tensor is `[K, N]`.
        stats: E[x^2] of the layer's input, for the scale search.
        threads: pieces quantized at the same time.

    Raises:
        ModelError: NaN or infinite values, or a damaged file.
    """
    rounder = _rounder(tensor, spec, stats)

    def run(rows: FloatArray) -> tuple[BlockWeight, Energy]:
        found = rounder(rows)
        return to_block_weight(found), _energy(rows, found, stats)

    yield from _in_order(run, tensor.rows(transposed=transposed), threads or default_threads())


def _rounder(
    tensor: MatrixInPieces, spec: LayerSpec, stats: LayerStats | None
) -> Callable[[FloatArray], QuantizedWeight]:
    # The type of the scales depends on the whole weight; pieces must not choose their own.
    storage = stored_spec(np.array([[tensor.peak()]], np.float32), spec.blocks())
    fit = fit_of(spec.method)

    def quantize_piece(rows: FloatArray) -> QuantizedWeight:
        width = rows.shape[1]
        return _quantize_rows(spec.method, rows, storage.fitted(width), fit, checked_importance(stats, width))

    return quantize_piece


def _energy(rows: FloatArray, found: QuantizedWeight, stats: LayerStats | None) -> Energy:
    """What rounding cost some rows; their squares are summed in float64."""
    blocks = dequantize_blocks(found.q, found.scales, found.zero_points, found.spec.bits)
    error = join_blocks(blocks, rows.shape[1]) - rows
    by_column = [np.einsum("nk,nk->k", part, part, dtype=np.float64) for part in (error, rows)]
    weights = np.zeros(rows.shape[1]) if stats is None else np.asarray(stats.mean_square, np.float64)
    return Energy(*(float(part.sum()) for part in by_column), *(float(part @ weights) for part in by_column))


def _quantize_rows(
    method: str, rows: FloatArray, spec: Blocks, fit: Fit, importance: FloatArray
) -> QuantizedWeight:
    scales, zeros = fit_parameters(rows.T, spec, fit, importance)
    stored_zeros = None if spec.symmetric else zeros.astype(np.uint8)
    codes = _round(split_blocks(rows, spec.block_size), scales, zeros, spec)
    return QuantizedWeight(codes, scales, stored_zeros, spec, rows.shape[1], method)


def _round(blocks: FloatArray, scales: FloatArray, zeros: FloatArray, spec: Blocks) -> ByteArray:
    """Nearest codes `[n, blocks, block]`: what `round_to` gives, without turning blocks into columns and back."""
    codes: ByteArray = np.empty(blocks.shape, np.uint8)
    step = max(1, _CACHED // blocks[0].size)
    for start in range(0, len(blocks), step):
        part = slice(start, start + step)
        steps = blocks[part] / scales[part, :, None]
        np.rint(steps, out=steps)
        steps += zeros[part, :, None]
        codes[part] = np.clip(steps, 0, spec.top, out=steps)
    return codes


def _in_order(function: Callable[[_T], _R], items: Iterable[_T], threads: int) -> Iterator[_R]:
    """Results in the order of the items; at most two items per thread are in memory."""
    if threads == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[_R]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= 2 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
