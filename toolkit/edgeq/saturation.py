"""Sums of products in 16 bits: which int8 weights can overflow them, and how to round so that none can.

x86-64 kernels without VNNI multiply uint8 activations by int8 weights and add each pair of neighbours along K in a
signed 16-bit register that saturates (`vpmaddubsw`); only pairs go on in 32 bits. A weight matrix whose pairs satisfy
`255 * (w[2k] + w[2k+1]) <= 32767` in their positive parts, and the same in their negative parts, therefore gives exact
sums on every CPU, whatever the activations are.
"""

from __future__ import annotations

import numpy as np

from edgeq.numerics import symmetric_scale
from edgeq.types import Array, FloatArray

PAIR_LIMIT = 32767 // 255
"""Largest sum of two neighbouring weights' magnitudes, where they have one sign: 128."""
CODE_LIMIT = 127
"""Largest magnitude of a symmetric int8 code."""


def pair_sums(weight: Array) -> Array:
    """What each pair of rows (2k, 2k+1) can add up to: the larger of its positive and its negative part.

    Args:
        weight: codes or floats `[K, N]`; an odd K is padded with zeros, as the kernels do.

    Returns:
        `[ceil(K / 2), N]`, not negative, float64.
    """
    pairs = _pairs(np.asarray(weight, np.float64))
    sums: Array = np.maximum(np.maximum(pairs, 0).sum(axis=1), np.maximum(-pairs, 0).sum(axis=1))
    return sums


def can_saturate(codes: Array) -> bool:
    """Whether some activation makes a pair of these int8 codes `[K, N]` leave 16 bits."""
    return bool((pair_sums(codes) > PAIR_LIMIT).any())


def pair_safe_width(weight: Array) -> Array:
    """The magnitude of each output channel that code 127 must stand for, so that no code and no pair is too large.

    Args:
        weight: `[K, N]`, finite.

    Returns:
        `[N]` float64; 0 for a column of zeros.
    """
    widest = np.abs(weight).max(axis=0, initial=0.0)
    pairs = pair_sums(weight).max(axis=0, initial=0.0) * (CODE_LIMIT / PAIR_LIMIT)
    width: Array = np.maximum(widest, pairs)
    return width


def pair_safe_scale(weight: Array) -> FloatArray:
    """The smallest symmetric scales `[N]` of a weight's output channels; 1 for a column of zeros."""
    return symmetric_scale(pair_safe_width(weight), 8)


def round_pair_safe(weight: Array, scale: Array) -> Array:
    """Codes nearest to `weight / scale` that cannot saturate.

    Two weights of a pair may both be rounded up, one beyond the limit; the one that gained more is rounded down.

    Args:
        weight: `[K, N]`.
        scale: `[N]`, at least `pair_safe_scale(weight)`, or one number that is at least its largest.

    Returns:
        int8 `[K, N]`.
    """
    values = _pairs(np.asarray(weight, np.float32) / np.asarray(scale, np.float32))
    codes = np.clip(np.rint(values), -CODE_LIMIT, CODE_LIMIT)
    gained = (np.abs(codes) - np.abs(values)).argmax(axis=1)[:, None]
    over = np.abs(codes.sum(axis=1, keepdims=True)) > PAIR_LIMIT
    picked = np.take_along_axis(codes, gained, axis=1)
    np.put_along_axis(codes, gained, picked - np.where(over, np.sign(picked), 0), axis=1)
    found: Array = codes.reshape(-1, codes.shape[-1])[: len(weight)].astype(np.int8)
    assert not can_saturate(found), "the scale is below pair_safe_scale"
    return found


def saturating_product(activations: Array, weight: Array) -> Array:
    """What the kernels without VNNI compute: products added in pairs that saturate in 16 bits, then in 32 bits.

    Args:
        activations: uint8 `[M, K]`.
        weight: int8 `[K, N]`.

    Returns:
        int32 `[M, N]`; equal to the exact product where no pair saturates.
    """
    left = _pairs(activations.T.astype(np.int32))  # [pairs, 2, M]
    right = _pairs(weight.astype(np.int32))  # [pairs, 2, N]
    total = np.zeros((activations.shape[0], weight.shape[1]), np.int32)
    for a, b in zip(left, right, strict=True):
        total += np.clip(a.T @ b, -32768, 32767)
    return total


def _pairs(matrix: Array) -> Array:
    """`[K, N]` as `[ceil(K / 2), 2, N]`."""
    rows, columns = matrix.shape
    padded = np.pad(matrix, ((0, rows % 2), (0, 0)))
    result: Array = padded.reshape(-1, 2, columns)
    return result
