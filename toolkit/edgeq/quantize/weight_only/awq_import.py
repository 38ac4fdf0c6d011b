"""Layers of AWQ checkpoints (AutoAWQ's `gemm` and `gemv` layouts) taken over without requantizing.

`W[k, n] = scales[g, n] * (code[k, n] - zero[g, n])` with `g = k // group_size`. `gemm` packs eight outputs of one input
in a word: `qweight [K, N / 8]`, `qzeros [groups, N / 8]`, `scales [groups, N]`, the fields of a word holding outputs 0,
2, 4, 6, 1, 3, 5, 7. `gemv` packs eight inputs of one output, in order: `qweight [N, K / 8]`, `qzeros [N, words]`,
`scales [N, 8 * words]`, with unused fields behind the last group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeq.errors import ModelError, UnsupportedError
from edgeq.quantize.weight_only.packed_words import Groups, from_groups, unpack_words
from edgeq.quantize.weight_only.quantized_weight import QuantizedWeight
from edgeq.types import Array

AWQ_BITS = 4
FIELDS = 8
"""Of a word."""
GEMM_FIELDS = (0, 4, 1, 5, 2, 6, 3, 7)
"""Output `i` of eight is in this field of a word of `gemm`."""
LAYOUTS = ("gemm", "gemv")


@dataclass(frozen=True, slots=True, eq=False)
class AwqLayer:
    """One layer's tensors, as the file has them; shapes above."""

    qweight: Array
    qzeros: Array
    scales: Array


def import_awq(layer: AwqLayer, group_size: int, layout: str) -> QuantizedWeight:
    """An AWQ layer with the same codes, scales and zero points.

    Args:
        layer: its tensors.
        group_size: inputs per scale; -1 is all of them.
        layout: `gemm` or `gemv`.

    Raises:
        ModelError: the tensors do not fit each other.
        UnsupportedError: another layout.
    """
    if layout not in LAYOUTS:
        raise UnsupportedError(f"AWQ in layout `{layout}`; expected {' or '.join(LAYOUTS)}")
    for name, words in (("qweight", layer.qweight), ("qzeros", layer.qzeros)):
        if words.dtype != np.int32:
            raise ModelError(f"{name} is {words.dtype}; expected int32")
    parts = _gemm(layer, group_size) if layout == "gemm" else _gemv(layer, group_size)
    return from_groups(parts, "stored awq")


def _gemm(layer: AwqLayer, group_size: int) -> Groups:
    inputs, words = layer.qweight.shape
    size = inputs if group_size == -1 else group_size
    groups = -(-inputs // size)
    _check(layer, qzeros=(groups, words), scales=(groups, words * FIELDS))
    codes, zero_points = (_in_order(unpack_words(part, AWQ_BITS)) for part in (layer.qweight, layer.qzeros))
    return Groups(np.ascontiguousarray(codes.T), layer.scales, zero_points, AWQ_BITS, size)


def _in_order(fields: Array) -> Array:
    """Outputs of every word in order, `[rows, N]`."""
    return fields.reshape(len(fields), -1, FIELDS)[..., list(GEMM_FIELDS)].reshape(len(fields), -1)


def _gemv(layer: AwqLayer, group_size: int) -> Groups:
    outputs, words = layer.qweight.shape
    inputs = words * FIELDS
    size = inputs if group_size == -1 else group_size
    groups = -(-inputs // size)
    width = layer.qzeros.shape[-1]
    if width * FIELDS < groups:
        raise ModelError(f"qzeros of shape {list(layer.qzeros.shape)}; expected room for {groups} groups")
    _check(layer, qzeros=(outputs, width), scales=(outputs, width * FIELDS))
    zero_points = unpack_words(layer.qzeros, AWQ_BITS)[:, :groups]
    codes = unpack_words(layer.qweight, AWQ_BITS)
    return Groups(codes, layer.scales[:, :groups].T, np.ascontiguousarray(zero_points.T), AWQ_BITS, size)


def _check(layer: AwqLayer, **shapes: tuple[int, ...]) -> None:
    for name, shape in shapes.items():
        found = getattr(layer, name).shape
        if found != shape:
            raise ModelError(
                f"{name} of shape {list(found)}; expected {list(shape)} for qweight {list(layer.qweight.shape)}"
            )
