"""GPTQ over a lookup table: k-means finds the values, the error of each choice is fed into the channels to come.

The table is the one of `palette.py`, found for the weight that GPTQ aims at. Its values are not evenly spaced, so
that rounding is a search for the nearest; everything else is GPTQ's column loop (`gptq.py`).
"""

from __future__ import annotations

import numpy as np

from edgeq.quantize import formats
from edgeq.quantize.weight_only.candidate import channel_errors
from edgeq.quantize.weight_only.gptq import Hessian, corrected_target, factor_of, round_channels, why_not
from edgeq.quantize.weight_only.palette import METHOD as KMEANS
from edgeq.quantize.weight_only.palette import Palette, group_rows_of, nearest, palettize
from edgeq.quantize.weight_only.quantized_weight import LayerStats, checked_weight
from edgeq.types import Array, FloatArray

METHOD = "gptq"


def quantize(
    weight: Array, spec: formats.Palette, stats: LayerStats | None
) -> tuple[Palette, tuple[str, ...]]:
    """A palette of `weight [K, N]` for the least output error on the calibration inputs behind `stats.gram`.

    Per table never worse than plain k-means on that objective. Where GPTQ cannot work, k-means alone decides, and
    the note says why.

    Returns:
        The palette, its rows being output channels, and notes.

    Raises:
        ModelError: the weight is not a finite matrix.
        ConfigError: the output channels cannot be divided.
        DataError: the statistics belong to another layer.
    """
    values = checked_weight(weight)
    reason = why_not(stats, values.shape[0])
    hessian = None if reason or stats is None else factor_of(stats)
    importance = None if stats is None or not np.isfinite(stats.mean_square).all() else stats.mean_square

    def clustered(aim: FloatArray) -> Palette:
        return palettize(_rows(aim), spec.bits, group_rows=group_rows_of(spec), importance=importance)

    plain = clustered(values)
    if hessian is None or stats is None:
        reason = reason or "X^T X is not positive definite at any damping"
        return plain, (f"{KMEANS} instead of {METHOD}: {reason}",)
    if stats.cross is None:
        return _with_feedback(values, plain, hessian), ()
    target = corrected_target(values, stats)
    return _better_tables(target, plain, _with_feedback(target, clustered(target), hessian), hessian), ()


def _with_feedback(weight: FloatArray, start: Palette, hessian: Hessian) -> Palette:
    """Per output channel the fed-back indices, or the nearest where those do better."""
    fed_back = Palette(feed_back(weight, start, hessian), start.luts)
    is_better = output_errors(weight, fed_back, hessian.gram) < output_errors(weight, start, hessian.gram)
    indices = np.where(is_better[:, None], fed_back.indices, start.indices)
    return Palette(np.ascontiguousarray(indices), start.luts)


def _better_tables(weight: FloatArray, first: Palette, second: Palette, hessian: Hessian) -> Palette:
    """Per table, with all rows that use it, whichever has the smaller error."""
    tables = len(first.luts)
    errors = [
        output_errors(weight, palette, hessian.gram).reshape(tables, -1).sum(1) for palette in (first, second)
    ]
    takes_second = errors[1] < errors[0]
    by_row = np.repeat(takes_second, len(first.indices) // tables)
    return Palette(
        np.where(by_row[:, None], second.indices, first.indices),
        np.where(takes_second[:, None], second.luts, first.luts),
    )


def feed_back(weight: FloatArray, palette: Palette, hessian: Hessian) -> Array:
    """Indices `[N, K]` for `weight [K, N]` into the tables of `palette`, by GPTQ's column loop."""
    indices = np.empty(weight.shape, np.uint8)

    def quantize_channel(channel: int, values: FloatArray) -> FloatArray:
        indices[channel], chosen = _look_up(values, palette.luts)
        return chosen

    round_channels(weight, hessian, quantize_channel)
    return np.ascontiguousarray(indices.T)


def _look_up(values: FloatArray, luts: FloatArray) -> tuple[Array, FloatArray]:
    """The nearest entry of each output's own table: index and value, `[N]`."""
    parts = values.reshape(len(luts), -1)
    found = [nearest(part, lut) for part, lut in zip(parts, luts, strict=True)]
    chosen = [lut[index] for index, lut in zip(found, luts, strict=True)]
    return np.concatenate(found), np.concatenate(chosen)


def output_errors(weight: FloatArray, palette: Palette, gram: FloatArray) -> FloatArray:
    """`channel_errors` of a palette."""
    return channel_errors(weight, palette.dense().T, gram)


def _rows(weight: FloatArray) -> FloatArray:
    return np.ascontiguousarray(weight.T, np.float32)
