"""Codes chosen by their effect on the layer's output, under parameters that stay: GPTQ on the grids of GGUF types.

As in `weight_only/gptq.py` (Frantar et al. 2023; coordinate descent after Behdin et al. 2023), but the steps and
offsets of all columns are known beforehand, so columns are visited by falling activation whatever the block type.
"""

from __future__ import annotations

import numpy as np

from edgeq.quantize.ggml.types import BlockType
from edgeq.quantize.weight_only.candidate import channel_errors
from edgeq.quantize.weight_only.gptq import Hessian, round_channels
from edgeq.quantize.weight_only.refine import descend_channels
from edgeq.types import FloatArray

_SWEEPS = 3


def feed_back(
    rows: FloatArray,
    steps: FloatArray,
    offsets: FloatArray,
    start: FloatArray,
    hessian: Hessian,
    kind: BlockType,
) -> FloatArray:
    """Codes for `rows [N, K]`; per row the best on the calibration objective of `start`, GPTQ and refined GPTQ.

    Args:
        rows: the weights.
        steps: of each weight, `[N, K]`.
        offsets: of each weight, `[N, K]`.
        start: codes rounded to nearest, `[N, K]`.
        hessian: of the layer's input.
        kind: the type, for the range of codes.
    """
    # Columns as rows of memory: a column's update then touches one stretch of it.
    weight, step, offset = (np.ascontiguousarray(array.T) for array in (rows, steps, offsets))
    inverse = np.divide(1, step, out=np.zeros_like(step), where=step != 0)
    rounded = _round_columns(weight, step, inverse, offset, hessian, kind)
    refined = _descend(weight, step, inverse, offset, rounded, hessian.damped, kind)
    candidates = [np.ascontiguousarray(start.T), rounded, refined]
    errors = np.stack([channel_errors(weight, codes * step + offset, hessian.gram) for codes in candidates])
    best = errors.argmin(0)
    chosen = np.take_along_axis(np.stack(candidates), best[None, None], 0)[0]
    return np.ascontiguousarray(chosen.T)


def _nearest(value: FloatArray, inverse: FloatArray, offset: FloatArray, kind: BlockType) -> FloatArray:
    codes = (value - offset) * inverse
    np.rint(codes, out=codes)
    return np.clip(codes, kind.low, kind.high, out=codes)


def _round_columns(
    weight: FloatArray,
    step: FloatArray,
    inverse: FloatArray,
    offset: FloatArray,
    hessian: Hessian,
    kind: BlockType,
) -> FloatArray:
    """GPTQ's codes, `[K, N]`."""
    codes = np.empty_like(weight)

    def quantize_channel(channel: int, values: FloatArray) -> FloatArray:
        codes[channel] = _nearest(values, inverse[channel], offset[channel], kind)
        return np.asarray(codes[channel] * step[channel] + offset[channel])

    round_channels(weight, hessian, quantize_channel)
    return codes


def _descend(
    weight: FloatArray,
    step: FloatArray,
    inverse: FloatArray,
    offset: FloatArray,
    start: FloatArray,
    hessian: FloatArray,
    kind: BlockType,
) -> FloatArray:
    """Each input channel's codes in turn to their best, all others fixed; the objective never rises."""
    codes = start.copy()
    error = weight - (codes * step + offset)

    def choose(channel: int, slope: FloatArray) -> FloatArray:
        best = codes[channel] + slope / hessian[channel, channel] * inverse[channel]
        code = np.clip(np.rint(best), kind.low, kind.high)
        change = (code - codes[channel]) * step[channel]
        codes[channel] = code
        return np.asarray(change)

    for _ in range(_SWEEPS):
        descend_channels(error, hessian, choose)
    return codes
