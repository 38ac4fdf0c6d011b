"""Layers of GPTQ checkpoints (AutoGPTQ, GPTQModel) taken over without requantizing.

A layer is `qweight [K * bits / 32, N]` (inputs packed along the rows, lowest bits first), `qzeros [groups, N * bits /
32]`, `scales [groups, N]` and `g_idx [K]`, the group of every input: with `g = g_idx[k]`,
`W[k, n] = scales[g, n] * (code[k, n] - zero[g, n])`. Version 1 of the format stores zero points less one: its readers
add one to every field of the 32-bit words, as is done here. With activation order (`desc_act`) the groups lie scattered
over the inputs; sorting the inputs by group makes them blocks, and the layer then reads its input in that order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeq.errors import ModelError, UnsupportedError
from edgeq.quantize.weight_only.packed_words import PACKED_BITS, WORD_BITS, Groups, from_groups, unpack_words
from edgeq.quantize.weight_only.quantized_weight import QuantizedWeight
from edgeq.types import Array

ONE_LESS = {bits: sum(1 << at for at in range(0, WORD_BITS, bits)) for bits in PACKED_BITS}
"""By bits: a one in every field of a word."""


@dataclass(frozen=True, slots=True, eq=False)
class GptqLayer:
    """One layer's tensors, as the file has them.

    Attributes:
        qweight: int32 `[K * bits / 32, N]`.
        qzeros: int32 `[groups, N * bits / 32]`.
        scales: float `[groups, N]`.
        g_idx: integers `[K]`; None where groups lie in order.
    """

    qweight: Array
    qzeros: Array
    scales: Array
    g_idx: Array | None = None


def import_gptq(layer: GptqLayer, bits: int, group_size: int, *, version: int) -> QuantizedWeight:
    """A GPTQ layer with the same codes, scales and zero points.

    Args:
        layer: its tensors.
        bits: 4 or 8.
        group_size: inputs per scale; -1 is all of them.
        version: 1 where zero points are stored less one, 2 where they are not.

    Raises:
        ModelError: the tensors do not fit each other.
        UnsupportedError: another number of bits, or groups that cannot be sorted into blocks.
    """
    if bits not in PACKED_BITS:
        raise UnsupportedError(f"GPTQ with {bits} bits; expected {' or '.join(map(str, PACKED_BITS))}")
    inputs = layer.qweight.shape[0] * WORD_BITS // bits
    size = inputs if group_size == -1 else group_size
    _check_shapes(layer, bits, inputs, size)
    order = None if layer.g_idx is None else _order(layer.g_idx, inputs, size)
    codes = unpack_words(np.ascontiguousarray(layer.qweight.T), bits)
    if order is not None:
        codes = np.ascontiguousarray(codes[:, order])
    words = layer.qzeros
    if version == 1:
        # Whole words, as the format's own readers do: a field that wrapped when one was taken off wraps back.
        words = (words.view(np.uint32) + np.uint32(ONE_LESS[bits])).view(np.int32)
    zero_points = unpack_words(words, bits)
    return from_groups(Groups(codes, layer.scales, zero_points, bits, size), "stored gptq", order)


def _check_shapes(layer: GptqLayer, bits: int, inputs: int, group_size: int) -> None:
    groups = -(-inputs // group_size)
    outputs = layer.qweight.shape[1]
    wanted = {
        "qzeros": (layer.qzeros, (groups, outputs * bits // WORD_BITS)),
        "scales": (layer.scales, (groups, outputs)),
    }
    for name, (tensor, shape) in wanted.items():
        if tensor.shape != shape:
            raise ModelError(
                f"{name} of shape {list(tensor.shape)}; expected {list(shape)} for {bits} bits in groups of "
                f"{group_size} and qweight {list(layer.qweight.shape)}"
            )
    for name, words in (("qweight", layer.qweight), ("qzeros", layer.qzeros)):
        if words.dtype != np.int32:
            raise ModelError(f"{name} is {words.dtype}; expected int32")


def _order(g_idx: Array, inputs: int, group_size: int) -> Array | None:
    """Inputs sorted by group; None where they are already.

    Raises:
        ModelError: `g_idx` names groups that are not there.
        UnsupportedError: groups of other sizes than `group_size`.
    """
    groups = -(-inputs // group_size)
    if g_idx.shape != (inputs,) or g_idx.min() < 0 or g_idx.max() >= groups:
        raise ModelError(
            f"g_idx of shape {list(g_idx.shape)} naming groups {g_idx.min()} to {g_idx.max()}; expected [{inputs}] "
            f"naming 0 to {groups - 1}"
        )
    in_order = np.arange(inputs) // group_size
    if np.array_equal(g_idx, in_order):
        return None
    order = np.argsort(g_idx, kind="stable")
    if not np.array_equal(g_idx[order], in_order):
        sizes = np.bincount(g_idx, minlength=groups)
        raise UnsupportedError(
            f"g_idx puts {sizes.min()} to {sizes.max()} inputs in a group; blocks need {group_size} in each"
        )
    return np.asarray(order, np.int64)
