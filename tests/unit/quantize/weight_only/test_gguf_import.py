"""Held against the dequantization of the `gguf` package, bit by bit."""

import numpy as np
import pytest

from edgeq.errors import DataError, UnsupportedError
from edgeq.quantize.weight_only.gguf_import import FORMATS, UNREPRESENTABLE, import_blocks
from edgeq.quantize.weight_only.matmul_nbits import to_block_weight

gguf = pytest.importorskip("gguf")

ROWS, WIDTH = 6, 512


def random_blocks(kind, seed=0):
    """Bytes of any bits, with finite scales: what a file may hold, not only what a quantizer writes."""
    layout = FORMATS[kind]
    random = np.random.default_rng(seed)
    shape = (ROWS, WIDTH // layout.values, layout.bytes_per_block)
    data = random.integers(0, 256, shape).astype(np.uint8)
    at = 208 if kind == "Q6_K" else 0
    scales = random.normal(0, 0.02, shape[:2]).astype("<f2")
    data[..., at : at + 2] = scales[..., None].view(np.uint8)
    return data.reshape(ROWS, -1)


def dequantized(kind, data):
    """By the gguf package, `[in, out]`."""
    return gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind]).T


@pytest.mark.parametrize("kind", sorted(FORMATS))
@pytest.mark.parametrize("seed", range(3))
def test_every_weight_is_bit_equal(kind, seed):
    data = random_blocks(kind, seed)
    weight = import_blocks(kind, data, WIDTH)
    expected = dequantized(kind, data)
    assert expected.dtype == np.float32
    # Not a tolerance: zero may have either sign, nothing else may differ.
    np.testing.assert_array_equal(weight.dequantize() + 0.0, expected + 0.0)
    stored = to_block_weight(weight)
    assert stored.scales.dtype == np.dtype(FORMATS[kind].scale_dtype)
    np.testing.assert_array_equal(stored.dequantize() + 0.0, expected + 0.0)


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_another_byte_is_another_weight(kind):
    """The twin: the comparison above sees a single changed code."""
    data = random_blocks(kind)
    expected = dequantized(kind, data)
    data[0, 7] ^= 0x11
    assert (import_blocks(kind, data, WIDTH).dequantize() != expected).any()


@pytest.mark.parametrize("kind", ["Q4_0", "Q5_0", "Q8_0"])
def test_what_the_package_quantizes(kind):
    weight = np.random.default_rng(1).normal(0, 0.05, (ROWS, WIDTH)).astype(np.float32)
    data = gguf.quants.quantize(weight, gguf.GGMLQuantizationType[kind])
    np.testing.assert_array_equal(import_blocks(kind, data, WIDTH).dequantize(), dequantized(kind, data))


@pytest.mark.parametrize("kind", sorted(UNREPRESENTABLE))
def test_other_types_are_refused_with_a_reason(kind):
    with pytest.raises(UnsupportedError, match=f"GGUF type {kind} cannot be taken over exactly: its"):
        import_blocks(kind, np.zeros((1, 144), np.uint8), 256)


def test_unknown_types():
    with pytest.raises(UnsupportedError, match=r"Q99 .* edgeq does not know it"):
        import_blocks("Q99", np.zeros((1, 18), np.uint8), 32)


@pytest.mark.parametrize(
    ("data", "width", "message"),
    [
        (np.zeros((1, 17), np.uint8), 32, "has 18 bytes, got 17"),
        (np.zeros((1, 18), np.uint8), 30, "whole blocks of 32"),
        (np.zeros((1, 18), np.int8), 32, "must be bytes"),
        (np.zeros(18, np.uint8), 32, "must be bytes"),
    ],
)
def test_truncated_or_wrong_rows(data, width, message):
    with pytest.raises(DataError, match=message):
        import_blocks("Q4_0", data, width)


def test_scales_that_are_not_finite():
    data = random_blocks("Q8_0")
    data[0, :2] = (0x00, 0x7C)
    with pytest.raises(DataError, match="infinite scales"):
        import_blocks("Q8_0", data, WIDTH)
