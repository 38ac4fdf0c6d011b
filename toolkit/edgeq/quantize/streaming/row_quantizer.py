"""One weight quantized a few rows at a time, to the bytes that quantizing it whole would give."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.graph.block_weight import BlockWeight
from edgeq.numerics import ByteArray, split_blocks
from edgeq.quantize.recipes import LayerSpec
from edgeq.quantize.streaming.stored_tensor import StoredTensor
from edgeq.quantize.weight_only.base import (
    LayerStats,
    QuantizedWeight,
    WeightSpec,
    checked_importance,
    stored_spec,
)
from edgeq.quantize.weight_only.blocks import Fit, fit_parameters
from edgeq.quantize.weight_only.hqq import solve
from edgeq.quantize.weight_only.matmul_nbits import to_block_weight
from edgeq.quantize.weight_only.rtn import fit_range
from edgeq.quantize.weight_only.scale_search import search_scales
from edgeq.types import FloatArray

ROW_METHODS: dict[str, Fit] = {"rtn": fit_range, "scale_search": search_scales, "hqq": solve}
"""Methods that decide each block by itself, so that rows can be quantized apart."""

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


def without_calibration(spec: LayerSpec) -> LayerSpec:
    """The same storage by the best method that needs no whole weight and no activations."""
    return spec if spec.method in ROW_METHODS else replace(spec, method="scale_search")


def quantized_rows(
    tensor: StoredTensor,
    spec: LayerSpec,
    *,
    transposed: bool = False,
    stats: LayerStats | None = None,
    threads: int | None = None,
) -> Iterator[BlockWeight]:
    """Consecutive rows of `tensor` (output channels, `[N, K]`) as packed blocks.

    Args:
        tensor: a matrix; read twice, once for its largest magnitude.
        spec: a weight-only format with a method of `ROW_METHODS`.
        transposed: the tensor is `[K, N]`.
        stats: E[x^2] of the layer's input, for the scale search.
        threads: pieces quantized at the same time.

    Raises:
        ModelError: NaN or infinite values, or a damaged file.
        UnsupportedError: the method needs the whole weight or calibration.
    """
    if spec.method not in ROW_METHODS:
        raise UnsupportedError(
            f"method {spec.method} of `{tensor.name}` needs calibration and whole weights in memory",
            hint=f"streaming offers {', '.join(ROW_METHODS)}",
        )
    # The type of the scales depends on the whole weight; pieces must not choose their own.
    storage = stored_spec(np.array([[tensor.peak()]], np.float32), spec.weight_spec())
    width = tensor.shape[0 if transposed else 1]
    importance = checked_importance(stats, width)
    fit = ROW_METHODS[spec.method]

    def quantize_piece(rows: FloatArray) -> BlockWeight:
        return _quantize_rows(spec.method, rows, storage, fit, importance)

    yield from _in_order(quantize_piece, tensor.rows(transposed=transposed), threads or default_threads())


def _quantize_rows(
    method: str, rows: FloatArray, spec: WeightSpec, fit: Fit, importance: FloatArray
) -> BlockWeight:
    scales, zeros = fit_parameters(rows.T, spec, fit, importance)
    stored_zeros = None if spec.symmetric else zeros.astype(np.uint8)
    codes = _round(split_blocks(rows, spec.block_size), scales, zeros, spec)
    return to_block_weight(QuantizedWeight(codes, scales, stored_zeros, spec, rows.shape[1], method))


def _round(blocks: FloatArray, scales: FloatArray, zeros: FloatArray, spec: WeightSpec) -> ByteArray:
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
