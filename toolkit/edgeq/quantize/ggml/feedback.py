"""Codes chosen by their effect on the layer's output, under parameters that stay: GPTQ on the grids of GGUF types.

As in `weight_only/gptq.py` (Frantar et al. 2023; coordinate descent after Behdin et al. 2023), but the steps and
offsets of all columns are known beforehand, so columns are visited by falling activation whatever the block type.
"""

from __future__ import annotations

import numpy as np

from edgeq.quantize.ggml.types import BlockType
from edgeq.quantize.weight_only.gptq import Hessian
from edgeq.types import FloatArray

_COLUMNS = 128
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
    errors = np.stack([output_errors(weight, codes * step + offset, hessian.gram) for codes in candidates])
    best = errors.argmin(0)
    chosen = np.take_along_axis(np.stack(candidates), best[None, None], 0)[0]
    return np.ascontiguousarray(chosen.T)


def output_errors(weight: FloatArray, values: FloatArray, gram: FloatArray) -> FloatArray:
    """Squared output error on the calibration inputs of each column of `[K, N]`."""
    error = weight - values
    return np.asarray(np.einsum("kn,kn->n", error, gram @ error, dtype=np.float64))


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
    """GPTQ's loop over input channels, `[K, N]`: the error of each goes into those not yet rounded."""
    order, factor = hessian.order, hessian.factor
    remaining = weight[order]
    codes = np.empty_like(weight)
    errors = np.empty((_COLUMNS, weight.shape[1]), np.float32)
    for begin in range(0, len(order), _COLUMNS):
        end = min(begin + _COLUMNS, len(order))
        for i in range(begin, end):
            at = order[i]
            codes[at] = _nearest(remaining[i], inverse[at], offset[at], kind)
            error = (remaining[i] - (codes[at] * step[at] + offset[at])) / factor[i, i]
            remaining[i + 1 : end] -= factor[i, i + 1 : end, None] * error
            errors[i - begin] = error
        remaining[end:] -= factor[begin:end, end:].T @ errors[: end - begin]
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
    for _ in range(_SWEEPS):
        for begin in range(0, len(weight), _COLUMNS):
            end = min(begin + _COLUMNS, len(weight))
            slope = hessian[begin:end] @ error
            for i in range(begin, end):
                best = codes[i] + slope[i - begin] / hessian[i, i] * inverse[i]
                code = np.clip(np.rint(best), kind.low, kind.high)
                change = (code - codes[i]) * step[i]
                codes[i] = code
                error[i] -= change
                slope -= hessian[begin:end, i, None] * change
    return codes
