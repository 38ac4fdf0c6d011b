"""Whole scales and minimums of a K type's sub-blocks, and the two float16 they share.

Starts from the free steps and offsets of the search; then turns of choosing the float16 by least squares over the whole
super-block, and the whole numbers of each sub-block among their neighbours. A turn is kept where it lowers the weighted
error of the weights themselves, so the result is never worse than the start, which is what llama.cpp stores.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeq.quantize.ggml.grid import Parameters, encode, rounding_error, to_half
from edgeq.quantize.ggml.search import Fit, fit_codes
from edgeq.quantize.ggml.types import BlockType
from edgeq.types import FloatArray

_SHARES = tuple(np.linspace(-0.6, 0.6, 7))
"""Whole scales past the end that the largest step of a super-block is mapped to."""
_TURNS = 3


def share_scales(x: FloatArray, weights: FloatArray, free: Fit, kind: BlockType) -> Parameters:
    """Parameters `[rows, blocks]` for `x [members, rows, sub-blocks]` from the free steps and offsets."""
    cost = np.broadcast_to(weights, x.shape).sum(0)
    scale, scales = _whole(free[0], cost, kind, kind.scale_low or 0)
    found = Parameters(scale, scales=scales)
    if free[1] is not None:
        minimum, minimums = _whole(-free[1], cost, kind, 0)
        found = replace(found, minimum=minimum, minimums=minimums)
    error = _errors(x, weights, found, kind)
    for _ in range(_TURNS):
        found, error = _keep(found, error, refit_shared(x, weights, found, kind), x, weights, kind)
        for other in _neighbours(x, weights, found, kind):
            found, error = _keep_sub_blocks(found, error, other, x, weights, kind)
    return found


def refit_shared(x: FloatArray, weights: FloatArray, start: Parameters, kind: BlockType) -> Parameters:
    """The float16 of each super-block by least squares for the codes that `start` gives."""
    assert start.scales is not None
    codes = encode(x, start.steps(), start.offsets(), kind)
    weighted = weights * codes
    a, s = start.scales, kind.sub_blocks
    xa, aa = _per_block((weighted * x).sum(0) * a, s), _per_block((weighted * codes).sum(0) * a * a, s)
    if start.minimums is None or start.minimum is None:
        return replace(start, scale=_or(to_half(_divide(xa, aa)), start.scale))
    b = -start.minimums
    ab = _per_block(weighted.sum(0) * a * b, s)
    xb = _per_block((weights * x).sum(0) * b, s)
    bb = _per_block(np.broadcast_to(weights.sum(0), b.shape) * b * b, s)
    determinant = aa * bb - ab * ab
    scale = np.where(determinant > 0, _divide(xa * bb - xb * ab, determinant), _divide(xa, aa))
    minimum = _divide(xb * aa - xa * ab, determinant)
    return replace(
        start,
        scale=_or(to_half(scale), start.scale),
        minimum=np.where(minimum > 0, to_half(minimum), start.minimum),
    )


def _whole(values: FloatArray, cost: FloatArray, kind: BlockType, low: int) -> tuple[FloatArray, FloatArray]:
    """A float16 per super-block and whole multiples of it, nearest to `values [rows, sub-blocks]`."""
    split = values.reshape(len(values), -1, kind.sub_blocks)
    weight = cost.reshape(split.shape)
    top, bottom = split.max(-1), split.min(-1)
    peak = top if low == 0 else np.where(-bottom > top, bottom, top)
    end = kind.scale_high if low == 0 else low
    best, error = to_half(peak / np.float32(end)), None
    for share in _SHARES:
        scale = to_half(peak / np.float32(end + share))
        missed = (weight * np.square(split - scale[..., None] * _multiples(split, scale, kind, low))).sum(-1)
        if error is None:
            best, error = scale, missed
        best, error = np.where(missed < error, scale, best), np.minimum(missed, error)
    return best, _multiples(split, best, kind, low).reshape(values.shape)


def _multiples(split: FloatArray, scale: FloatArray, kind: BlockType, low: int) -> FloatArray:
    safe = np.where(scale == 0, np.float32(np.inf), scale)[..., None]
    return np.clip(np.rint(split / safe), low, kind.scale_high)


def _neighbours(x: FloatArray, weights: FloatArray, found: Parameters, kind: BlockType) -> list[Parameters]:
    """Other whole numbers: those nearest to the steps that fit the present codes, and one more or less of each."""
    assert found.scales is not None
    low = kind.scale_low or 0
    free = fit_codes(x, weights, (found.steps(), found.offsets()), kind)
    split = free[0].reshape(len(found.scale), -1, kind.sub_blocks)
    fitted = _multiples(split, found.scale, kind, low).reshape(found.scales.shape)
    others = [replace(found, scales=np.clip(found.scales + d, low, kind.scale_high)) for d in (-1, 1)]
    if found.minimum is None or found.minimums is None or free[1] is None:
        return [replace(found, scales=fitted), *others]
    minimums = _multiples(-free[1].reshape(split.shape), found.minimum, kind, 0).reshape(fitted.shape)
    others += [replace(found, minimums=np.clip(found.minimums + d, 0, kind.scale_high)) for d in (-1, 1)]
    return [replace(found, scales=fitted, minimums=minimums), *others]


def _errors(x: FloatArray, weights: FloatArray, found: Parameters, kind: BlockType) -> FloatArray:
    return rounding_error(x, weights, found.steps(), found.offsets(), kind)


def _keep(
    best: Parameters,
    error: FloatArray,
    other: Parameters,
    x: FloatArray,
    weights: FloatArray,
    kind: BlockType,
) -> tuple[Parameters, FloatArray]:
    """The better of two for each super-block: they differ in its float16."""
    found = _errors(x, weights, other, kind)
    s = kind.sub_blocks
    wins = _per_block(found, s) < _per_block(error, s)
    minimum = None
    if best.minimum is not None and other.minimum is not None:
        minimum = np.where(wins, other.minimum, best.minimum)
    kept = replace(best, scale=np.where(wins, other.scale, best.scale), minimum=minimum)
    return kept, np.where(np.repeat(wins, s, axis=1), found, error)


def _keep_sub_blocks(
    best: Parameters,
    error: FloatArray,
    other: Parameters,
    x: FloatArray,
    weights: FloatArray,
    kind: BlockType,
) -> tuple[Parameters, FloatArray]:
    """The better of two for each sub-block: they differ in whole numbers."""
    found = _errors(x, weights, other, kind)
    wins = found < error
    minimums = None
    if best.minimums is not None and other.minimums is not None:
        minimums = np.where(wins, other.minimums, best.minimums)
    assert best.scales is not None and other.scales is not None
    kept = replace(best, scales=np.where(wins, other.scales, best.scales), minimums=minimums)
    return kept, np.where(wins, found, error)


def _per_block(values: FloatArray, sub_blocks: int) -> FloatArray:
    """Sums over the sub-blocks of each super-block, `[rows, blocks]`."""
    return np.asarray(values.reshape(len(values), -1, sub_blocks).sum(-1))


def _or(values: FloatArray, others: FloatArray) -> FloatArray:
    return np.where(values == 0, others, values)


def _divide(a: FloatArray, b: FloatArray) -> FloatArray:
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)
