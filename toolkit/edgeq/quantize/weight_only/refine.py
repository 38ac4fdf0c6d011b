"""Lower the calibration objective of a rounded weight further: codes and scales in turn.

Coordinate descent over codes (Behdin et al., "QuantEase", 2023) alternates with a least-squares fit of every
block's scale. Both steps minimize tr((W - Q)^T H (W - Q)) exactly in their own variables, so it never rises.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from edgeq.quantize.formats import Blocks
from edgeq.quantize.weight_only.candidate import Candidate, output_errors
from edgeq.quantize.weight_only.quantized_weight import round_scales
from edgeq.types import FloatArray

_COLUMNS = 128


def refine(
    weight: FloatArray, start: Candidate, hessian: FloatArray, spec: Blocks, rounds: int = 3
) -> Candidate:
    """`rounds` times: refit the scales, then re-choose every code once.

    Args:
        weight: `[K, N]`.
        start: where to begin.
        hessian: positive definite `[K, K]`.
        spec: how scales are stored.
        rounds: sweeps over all codes.
    """
    candidate = start
    for _ in range(rounds):
        candidate = refit_scales(weight, candidate, hessian, spec)
        candidate = descend(weight, candidate, hessian, spec)
    return candidate


def descend(weight: FloatArray, start: Candidate, hessian: FloatArray, spec: Blocks) -> Candidate:
    """Each input channel's codes in turn to their best, all others fixed."""
    codes = start.codes.copy()

    def choose(channel: int, slope: FloatArray) -> FloatArray:
        scale, zero = start.parameters(channel)
        best = codes[channel] + slope / (hessian[channel, channel] * scale)
        code = np.clip(np.rint(best), -zero, spec.top - zero)
        change = (code - codes[channel]) * scale
        codes[channel] = code
        return np.asarray(change)

    descend_channels(weight - start.values(), hessian, choose)
    return replace(start, codes=codes)


def descend_channels(
    error: FloatArray, hessian: FloatArray, choose: Callable[[int, FloatArray], FloatArray]
) -> None:
    """One sweep of coordinate descent over input channels, all others fixed each time.

    Args:
        error: the weight less what its codes stand for, `[K, N]`; kept up to date.
        hessian: positive definite `[K, K]`.
        choose: given a channel and its row of `hessian @ error`, `[N]`, keeps its best codes and returns by how much
            the values that they stand for change.
    """
    for begin in range(0, len(error), _COLUMNS):
        end = min(begin + _COLUMNS, len(error))
        slope = hessian[begin:end] @ error
        for i in range(begin, end):
            change = choose(i, slope[i - begin])
            error[i] -= change
            slope -= hessian[begin:end, i, None] * change


def refit_scales(weight: FloatArray, start: Candidate, hessian: FloatArray, spec: Blocks) -> Candidate:
    """All scales of an output channel together by least squares; kept where that lowers its error."""
    blocks, outputs = start.scales.shape
    projected = hessian @ weight
    normal = np.empty((outputs, blocks, blocks), np.float64)
    for block in range(blocks):
        members = start.block_of == block
        right = hessian[:, members] @ start.codes[members]
        normal[:, block] = _sum_blocks(start, start.codes * right)
    target = _sum_blocks(start, start.codes * projected).astype(np.float64)
    # A block of zero codes has no say in its scale: keep it solvable.
    normal += 1e-7 * np.eye(blocks) * (1 + np.einsum("nbb->n", normal)[:, None, None] / blocks)
    fitted = np.linalg.solve(normal, target[..., None])[..., 0]
    scales = round_scales(np.ascontiguousarray(fitted.T, np.float32), spec)
    refitted = replace(start, scales=scales)
    better = output_errors(weight, refitted, hessian) < output_errors(weight, start, hessian)
    return replace(start, scales=np.where(better, scales, start.scales))


def _sum_blocks(candidate: Candidate, values: FloatArray) -> FloatArray:
    """Sum `[K, N]` over the members of each block: `[N, blocks]`."""
    starts = np.flatnonzero(np.diff(candidate.block_of, prepend=-1))
    return np.asarray(np.add.reduceat(values, starts, axis=0).T)
