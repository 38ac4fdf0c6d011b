"""What every weight-only method takes and returns, and the steps they share.

A weight is `[in_features K, out_features N]`, as ONNX MatMul has it. Methods work on blocks along K in the
layout `[block, N, blocks]`: the reduction over a block's members is then over whole rows of memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeq.errors import DataError, ModelError
from edgeq.graph.block_factors import BlockFactors
from edgeq.numerics import (
    FP16_MAX,
    ByteArray,
    dequantize_blocks,
    join_blocks,
    round_scale_fp16,
    split_blocks,
)
from edgeq.quantize.formats import Blocks
from edgeq.types import Array, FloatArray

# Below this the largest scale is subnormal in float16 and the search would round it to few digits.
_FP16_NORMAL = 2.0**-14
# Elements a chunk of rows holds: about 1 MB of float32, so a search's temporaries stay in cache.
_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class LayerStats:
    """What calibration says about one layer's input X `[tokens, K]`, padding left out.

    Layers that read one input share one object, and with it what a method works out of it once (`gptq.factor_of`).

    Attributes:
        mean_square: E[x^2] per input channel, `[K]`.
        tokens: rows of X.
        gram: X^T X summed over tokens, `[K, K]`; only GPTQ needs it.
        cross: X^T R, `[K, K]`, where R is the same input in the original model and X that in the model whose
            earlier layers are already quantized; GPTQ then also makes up for what those layers lost.
    """

    mean_square: FloatArray
    tokens: int
    gram: Array | None = None
    cross: Array | None = None


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedWeight:
    """A quantized weight `[K, N]`.

    Attributes:
        q: unsigned codes `[N, blocks, block]`; codes past K are padding.
        scales: `[N, blocks]` float32, already rounded to `spec.scale_dtype`; may be negative.
        zero_points: integers `[N, blocks]`, None when symmetric.
        spec: how it is stored.
        in_features: K.
        method: what made it; differs from the one asked for after a fallback.
        notes: what the user should know (a fallback and its reason).
        input_scales: `[K]`: the codes hold `diag(input_scales) @ W`, so the input must be divided by them
            (AWQ). None means 1.
        offsets: `[N, blocks]` float32, added to every member of a block (GGUF types with a minimum). None means 0.
        input_order: `[K]` int64, the input channel that each code of a row belongs to (GPTQ with activation order).
            None means their own order.
        factors: the products that `scales` and `offsets` are, where a checkpoint stores those; None elsewhere.
    """

    q: ByteArray
    scales: FloatArray
    zero_points: ByteArray | None
    spec: Blocks
    in_features: int
    method: str
    notes: tuple[str, ...] = ()
    input_scales: FloatArray | None = None
    offsets: FloatArray | None = None
    input_order: Array | None = None
    factors: BlockFactors | None = None

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per weight, offsets included."""
        if self.factors is not None:
            return (
                8
                * (self.q.size * self.spec.bits / 8 + self.factors.size_bytes)
                / (self.in_features * self.out_features)
            )
        offset_bits = 0 if self.offsets is None else 32 * self.offsets.shape[1] / self.in_features
        return self.spec.bits_per_weight(self.in_features) + offset_bits

    @property
    def out_features(self) -> int:
        """N."""
        return int(self.q.shape[0])

    def select(self, outputs: Sequence[int]) -> QuantizedWeight:
        """Some output channels, in the order asked for."""
        index = np.asarray(outputs, np.intp)
        zeros = None if self.zero_points is None else self.zero_points[index]
        offsets = None if self.offsets is None else self.offsets[index]
        return replace(self, q=self.q[index], scales=self.scales[index], zero_points=zeros, offsets=offsets)

    def dequantize(self) -> FloatArray:
        """The weight `[K, N]` this stands for, `input_scales` divided out, in the layer's own order of inputs."""
        stored = self.dequantize_stored()
        if self.input_order is not None:
            stored = stored[np.argsort(self.input_order)]
        return stored if self.input_scales is None else stored / self.input_scales[:, None]

    def dequantize_stored(self) -> FloatArray:
        """The weight `[K, N]` the codes hold: `dequantize` before `input_order` and `input_scales` are undone."""
        blocks = dequantize_blocks(self.q, self.scales, self.zero_points, self.spec.bits)
        if self.offsets is not None:
            blocks = blocks + self.offsets[..., None]
        return np.ascontiguousarray(join_blocks(blocks, self.in_features).T)


def checked_weight(weight: Array) -> FloatArray:
    """The weight as float32 `[K, N]`.

    Raises:
        ModelError: not two-dimensional, empty, or with NaN or infinite values.
    """
    if weight.ndim != 2 or 0 in weight.shape:
        raise ModelError(f"a weight of shape {list(weight.shape)}; expected [in_features, out_features]")
    values = np.asarray(weight, np.float32)
    bad = int(values.size - np.count_nonzero(np.isfinite(values)))
    if bad:
        raise ModelError(f"a weight of shape {list(weight.shape)} has {bad} NaN or infinite values")
    return values


def checked_importance(stats: LayerStats | None, in_features: int) -> FloatArray:
    """E[x^2] per channel scaled to mean 1; ones where there are no statistics. `[K]` float32.

    Channels that were never active keep 1e-4 of the mean: unseen in calibration is not unused.

    Raises:
        DataError: statistics of another layer, or NaN or infinite ones.
    """
    if stats is None:
        return np.ones(in_features, np.float32)
    values = np.asarray(stats.mean_square, np.float64)
    if values.shape != (in_features,):
        raise DataError(f"statistics of {values.shape} channels for a weight with {in_features} inputs")
    if not np.isfinite(values).all() or (values < 0).any():
        raise DataError("calibration statistics are NaN, infinite or negative; is the model's output finite?")
    mean = float(values.mean())
    if mean == 0:
        return np.ones(in_features, np.float32)
    return np.maximum(values / mean, 1e-4).astype(np.float32)


def stored_spec(weight: FloatArray, spec: Blocks) -> Blocks:
    """`spec`, with float32 scales where float16 cannot hold this weight's scales."""
    largest = float(np.abs(weight).max()) / spec.middle
    fits = largest == 0 or (largest >= _FP16_NORMAL and 2 * largest <= FP16_MAX)
    return spec if fits else replace(spec, scale_dtype="float32")


def round_scales(scales: FloatArray, spec: Blocks) -> FloatArray:
    """Scales as they will be stored; zero and non-finite ones (an empty block) become 1."""
    usable = np.where(np.isfinite(scales) & (scales != 0), scales, np.float32(1))
    return round_scale_fp16(usable) if spec.scale_dtype == "float16" else usable.astype(np.float32)


def row_chunks(weight: FloatArray, spec: Blocks) -> Iterator[tuple[slice, FloatArray]]:
    """Rows of `weight.T` a cache-sized chunk at a time, as `[block, rows, blocks]`, padded with zeros."""
    k, n = weight.shape
    step = max(1, _CHUNK // k)
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        blocks = split_blocks(np.ascontiguousarray(weight[:, rows].T), spec.block_size)
        yield rows, np.ascontiguousarray(blocks.transpose(2, 0, 1))


def block_importance(importance: FloatArray, spec: Blocks) -> FloatArray:
    """`[K]` as `[block, 1, blocks]`; padding weighs nothing."""
    return np.ascontiguousarray(split_blocks(importance[None], spec.block_size).transpose(2, 0, 1))


def encode(x: FloatArray, scales: FloatArray, zero_points: FloatArray, spec: Blocks) -> FloatArray:
    """Codes minus zero point, as float: `x [block, rows, blocks]` against `[rows, blocks]` parameters."""
    steps: FloatArray = x / scales
    np.rint(steps, out=steps)
    if spec.symmetric:
        # Bounds that are numbers: clipping against arrays is ten times slower.
        return np.clip(steps, -spec.middle, spec.top - spec.middle, out=steps)
    np.maximum(steps, -zero_points, out=steps)
    return np.minimum(steps, spec.top - zero_points, out=steps)
