"""What a row of blocks is rounded to, and how far that is from the weights.

Sub-blocks lie in the last axis: weights are `[members, rows, sub-blocks of a row]`, so that sums over the members of
a sub-block run over whole rows of memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeq.numerics import FP16_MAX
from edgeq.quantize.ggml.types import BlockType
from edgeq.types import Array, FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Parameters:
    """What is stored of some rows besides their codes.

    Attributes:
        scale: the float16 of each block (`d`), `[rows, blocks]` float32.
        minimum: the second float16 (`m`, or `dmin` of a K type), `[rows, blocks]` float32; None where there is none.
        scales: whole scales of the sub-blocks of a K type, `[rows, sub-blocks]`; None for the others.
        minimums: whole minimums of its sub-blocks.
    """

    scale: FloatArray
    minimum: FloatArray | None = None
    scales: FloatArray | None = None
    minimums: FloatArray | None = None

    def steps(self) -> FloatArray:
        """`[rows, sub-blocks]`: as readers compute it, in float32."""
        return self.scale if self.scales is None else _spread(self.scale, self.scales) * self.scales

    def offsets(self) -> FloatArray | None:
        """`[rows, sub-blocks]`; None for 0."""
        if self.minimum is None or self.minimums is None:
            return self.minimum
        return -(_spread(self.minimum, self.minimums) * self.minimums)


def _spread(per_block: FloatArray, like: FloatArray) -> FloatArray:
    """A value of each super-block for each of its sub-blocks."""
    return np.repeat(per_block, like.shape[1] // per_block.shape[1], axis=1)


def to_sub_blocks(rows: FloatArray, kind: BlockType) -> FloatArray:
    """`[rows, K]` as `[members, rows, sub-blocks]`."""
    split = rows.reshape(len(rows), -1, kind.members)
    return np.ascontiguousarray(split.transpose(2, 0, 1))


def from_sub_blocks(values: Array) -> Array:
    """`[members, rows, sub-blocks]` as `[rows, K]`."""
    return np.ascontiguousarray(values.transpose(1, 2, 0)).reshape(values.shape[1], -1)


def encode(x: FloatArray, steps: FloatArray, offsets: FloatArray | None, kind: BlockType) -> FloatArray:
    """Nearest codes, whole numbers as float32; a step of 0 gives the code nearest to 0."""
    safe = np.where(steps == 0, np.float32(np.inf), steps)
    shifted = x if offsets is None else x - offsets
    codes: FloatArray = np.asarray(shifted / safe, np.float32)
    np.rint(codes, out=codes)
    return np.clip(codes, kind.low, kind.high, out=codes)


def decode(codes: FloatArray, steps: FloatArray, offsets: FloatArray | None) -> FloatArray:
    """The weights that codes stand for."""
    values: FloatArray = codes * steps
    return values if offsets is None else values + offsets


def rounding_error(
    x: FloatArray, weights: FloatArray, steps: FloatArray, offsets: FloatArray | None, kind: BlockType
) -> FloatArray:
    """`sum weights * (x - rounded)^2` of each sub-block, `[rows, sub-blocks]`."""
    error = decode(encode(x, steps, offsets, kind), steps, offsets)
    error -= x
    error *= error
    error *= weights
    return np.asarray(error.sum(0))


def to_half(values: FloatArray) -> FloatArray:
    """Rounded to what a float16 holds; beyond its range to the end of it."""
    clipped = np.clip(np.nan_to_num(values, nan=0.0, posinf=FP16_MAX, neginf=-FP16_MAX), -FP16_MAX, FP16_MAX)
    return np.asarray(clipped.astype(np.float16), np.float32)
