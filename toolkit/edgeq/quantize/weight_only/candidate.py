"""A quantized weight in the orientation GPTQ works in, and the choice between several of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeq.numerics import split_blocks
from edgeq.quantize.formats import PER_CHANNEL, Blocks
from edgeq.quantize.weight_only.quantized_weight import QuantizedWeight
from edgeq.types import Array, FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """Codes and parameters of a weight `[K, N]`.

    Attributes:
        codes: codes minus zero point, whole numbers as float32, `[K, N]`.
        scales: `[blocks, N]`.
        zeros: zero points, whole numbers as float32, `[blocks, N]`.
        block_of: block of every input channel, `[K]`.
    """

    codes: FloatArray
    scales: FloatArray
    zeros: FloatArray
    block_of: Array

    def parameters(self, channel: int) -> tuple[FloatArray, FloatArray]:
        """Scale and zero point of one input channel for every output, `[N]` each."""
        block = self.block_of[channel]
        return self.scales[block], self.zeros[block]

    def values(self) -> FloatArray:
        """The dequantized weight `[K, N]`."""
        return np.asarray(self.codes * self.scales[self.block_of], np.float32)


def blocks_of(in_features: int, spec: Blocks) -> Array:
    """The block each input channel belongs to, `[K]`."""
    width = in_features if spec.block_size == PER_CHANNEL else spec.block_size
    return np.arange(in_features) // width


def nearest(weight: FloatArray, spec: Blocks, scales: FloatArray, zeros: FloatArray) -> Candidate:
    """`weight [K, N]` rounded to nearest under parameters `[N, blocks]`."""
    block_of = blocks_of(weight.shape[0], spec)
    by_block, zeros_by_block = np.ascontiguousarray(scales.T), np.ascontiguousarray(zeros.T)
    zero = zeros_by_block[block_of]
    codes = np.clip(np.rint(weight / by_block[block_of]), -zero, spec.top - zero)
    return Candidate(codes, by_block, zeros_by_block, block_of)


def output_errors(weight: FloatArray, candidate: Candidate, gram: FloatArray) -> FloatArray:
    """`channel_errors` of a candidate."""
    return channel_errors(weight, candidate.values(), gram)


def channel_errors(weight: FloatArray, values: FloatArray, gram: FloatArray) -> FloatArray:
    """E^T H E of every output channel of `[K, N]`, `[N]`: the squared output error on the calibration inputs."""
    error = weight - values
    return np.asarray(np.einsum("kn,kn->n", error, gram @ error, dtype=np.float64))


def keep_best(weight: FloatArray, candidates: Sequence[Candidate], gram: FloatArray) -> Candidate:
    """Per output channel the candidate with the least output error (the first of equals)."""
    errors = np.stack([output_errors(weight, candidate, gram) for candidate in candidates])
    best = errors.argmin(0)

    def pick(field: str) -> FloatArray:
        stacked = np.stack([getattr(candidate, field) for candidate in candidates])
        return np.asarray(np.take_along_axis(stacked, best[None, None], 0)[0])

    return Candidate(pick("codes"), pick("scales"), pick("zeros"), candidates[0].block_of)


def assemble(method: str, parts: Sequence[Candidate], spec: Blocks) -> QuantizedWeight:
    """Neighbouring output channels' candidates as one stored weight."""
    codes, scales, zeros = (
        np.ascontiguousarray(np.concatenate([getattr(part, field) for part in parts], axis=1).T)
        for field in ("codes", "scales", "zeros")
    )
    q = (split_blocks(codes, spec.block_size) + zeros[..., None]).astype(np.uint8)
    stored_zeros = None if spec.symmetric else zeros.astype(np.uint8)
    return QuantizedWeight(q, scales, stored_zeros, spec, codes.shape[1], method)
