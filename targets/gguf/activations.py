"""What llama.cpp's CPU kernels make of a layer's input: integers beside quantized weights, halves beside half weights.

Types as ggml's `vec_dot_type` pairs them: 8 bits in blocks of 32 for the types of 32 (Q8_0, Q8_1), in blocks of 256 for
the K types (Q8_K).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from edgeq.quantize.ggml import BLOCK_TYPES
from edgeq.targets.gguf.tensors import PlannedTensor
from edgeq.types import FloatArray


def roundings(path: Path, planned: Sequence[PlannedTensor]) -> dict[str, Callable[[FloatArray], FloatArray]]:
    """By parameter, for the matrices of a file."""
    import gguf

    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
    found = {}
    for tensor in planned:
        change = rounding_of(kinds[tensor.name])
        if len(tensor.shape) == 2 and not tensor.is_lookup and change is not None:
            found[tensor.parameter] = change
    return found


def rounding_of(kind: str) -> Callable[[FloatArray], FloatArray] | None:
    """What is done to rows `[tokens, K]` beside weights of a type; None for nothing."""
    if kind == "F16":
        return lambda rows: rows.astype(np.float16).astype(np.float32)
    if kind == "BF16":
        return _to_bfloat16
    block = BLOCK_TYPES.get(kind)
    return None if block is None else lambda rows: _to_eight_bits(rows, block.block)


def _to_bfloat16(rows: FloatArray) -> FloatArray:
    """Nearest bfloat16, half to even."""
    bits = np.ascontiguousarray(rows, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return np.asarray(rounded.astype(np.uint32).view(np.float32))


def _to_eight_bits(rows: FloatArray, block: int) -> FloatArray:
    """Whole multiples of a 127th of each block's largest value."""
    split = rows.reshape(len(rows), -1, block)
    scale = np.abs(split).max(-1, keepdims=True) / np.float32(127)
    if block == 32:
        scale = scale.astype(np.float16).astype(np.float32)
    safe = np.where(scale == 0, np.float32(1), scale)
    return np.asarray((np.rint(split / safe) * scale).reshape(rows.shape), np.float32)
