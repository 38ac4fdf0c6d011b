"""Rows of quantized tensors found again: joined, in the finest format, and never where something would be lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeq.errors import UnsupportedError
from edgeq.quantize.checkpoint_codes import PackedTensor, PackedWeights
from edgeq.quantize.formats import Blocks
from edgeq.quantize.weight_only import quantize

RNG = np.random.default_rng(3)
K, N = 64, 8


def quantized(bits=4, block=32, symmetric=True, **changes):
    weight = RNG.normal(0, 0.05, (K, N)).astype(np.float32)
    return replace(quantize("rtn", weight, Blocks(bits, block, symmetric)), **changes)


def table(**weights):
    packed = PackedWeights("test")
    for name, weight in weights.items():
        packed.add(PackedTensor(name, "kind", lambda weight=weight: weight), weight.dequantize().T)
    return packed


@pytest.mark.parametrize(
    "second",
    [
        {"bits": 8},
        {"block": 16},
        {"symmetric": False},
        {"bits": 8, "block": 16, "symmetric": False},
        {"block": -1},
        {"offsets": RNG.normal(0, 1, (N, 2)).astype(np.float32)},
    ],
)
def test_a_joined_matrix_is_bit_equal_whatever_its_parts_are(second):
    parts = {"q": quantized(), "v": quantized(**second)}
    packed = table(**parts)
    dense = np.concatenate([part.dequantize() for part in parts.values()], axis=1)
    rows = RNG.permutation(2 * N)
    found = packed.find(np.ascontiguousarray(dense[:, rows]))
    np.testing.assert_array_equal(found.dequantize(), dense[:, rows])
    assert packed.unread() == []


def test_one_order_for_all_parts_of_a_joined_matrix():
    order, other = RNG.permutation(K), RNG.permutation(K)
    parts = {"q": quantized(input_order=order), "k": quantized(input_order=order.copy())}
    dense = np.concatenate([part.dequantize() for part in parts.values()], axis=1)
    np.testing.assert_array_equal(table(**parts).find(dense).dequantize(), dense)
    for wrong in (other, None):
        parts["k"] = quantized(input_order=wrong)
        dense = np.concatenate([part.dequantize() for part in parts.values()], axis=1)
        with pytest.raises(UnsupportedError, match="`q` and `k` are one matrix in the graph"):
            table(**parts).find(dense)


def test_what_is_not_the_checkpoints_is_not_found():
    weight = quantized()
    packed = table(q=weight)
    dense = weight.dequantize()
    dense[5, 2] = np.nextafter(dense[5, 2], np.float32(1))
    assert packed.find(dense) is None
    assert packed.unread() == ["q"]


def test_a_copy_of_another_tensor_need_not_be_found():
    """Tied tables that a file holds twice."""
    weight = quantized()
    packed = table(embedding=weight, head=weight)
    assert packed.unread() == ["embedding"]
    assert packed.find(weight.dequantize()) is not None
    assert packed.unread() == []
