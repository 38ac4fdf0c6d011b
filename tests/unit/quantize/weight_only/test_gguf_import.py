"""Held against the dequantization of the `gguf` package, bit by bit."""

import numpy as np
import pytest

from edgeq.errors import DataError, UnsupportedError
from edgeq.quantize.weight_only.gguf_import import FORMATS, HALF_RANGE, UNREPRESENTABLE, import_blocks
from edgeq.quantize.weight_only.matmul_nbits import to_block_weight

gguf = pytest.importorskip("gguf")

ROWS, WIDTH = 6, 512
EXACT = sorted(set(FORMATS) - set(HALF_RANGE))
HALVES = {
    "Q6_K": (208,),
    "Q3_K": (108,),
    "Q2_K": (80, 82),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
}
"""Where a block has its float16 numbers, if not at 0."""


def random_blocks(kind, seed=0):
    """Bytes of any bits, with finite scales: what a file may hold, not only what a quantizer writes."""
    layout = FORMATS[kind]
    random = np.random.default_rng(seed)
    shape = (ROWS, WIDTH // layout.values, layout.bytes_per_block)
    data = random.integers(0, 256, shape).astype(np.uint8)
    if kind == "MXFP4":
        data[..., 0] = random.integers(110, 140, shape[:2])
        return data.reshape(ROWS, -1)
    for at in HALVES.get(kind, (0,)):
        scales = random.normal(0, 0.02, shape[:2]).astype("<f2")
        data[..., at : at + 2] = scales[..., None].view(np.uint8)
    return data.reshape(ROWS, -1)


def dequantized(kind, data):
    """By the gguf package, `[in, out]`."""
    return gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind]).T


@pytest.mark.parametrize("kind", EXACT)
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


@pytest.mark.parametrize("kind", sorted(HALF_RANGE))
@pytest.mark.parametrize("seed", range(3))
def test_types_with_a_minimum_are_equal_to_the_rounding_of_a_sum(kind, seed):
    data = random_blocks(kind, seed)
    weight = import_blocks(kind, data, WIDTH)
    expected = dequantized(kind, data)
    # Scale times integer is rounded once on either side, the sum once, and the offset when it is stored: each by half
    # an ulp of a number no larger than the largest product plus the offset.
    block = FORMATS[kind].block_size
    size = np.abs(weight.scales) * 2 * HALF_RANGE[kind] * 2 + np.abs(weight.offsets)
    bound = np.repeat(4 * np.finfo(np.float32).eps / 2 * size, block, axis=1).T
    assert (np.abs(weight.dequantize() - expected) <= bound).all()
    stored = to_block_weight(weight)
    np.testing.assert_array_equal(stored.dequantize(), weight.dequantize())
    data[0, 50] ^= 0x11
    assert not (np.abs(weight.dequantize() - dequantized(kind, data)) <= bound).all()


@pytest.mark.parametrize("kind", EXACT)
def test_another_byte_is_another_weight(kind):
    """The twin: the comparison above sees a single changed code."""
    data = random_blocks(kind)
    expected = dequantized(kind, data)
    data[0, 33 if kind == "Q3_K" else 9] ^= 0x11
    assert (import_blocks(kind, data, WIDTH).dequantize() != expected).any()


@pytest.mark.parametrize("kind", ["Q4_0", "Q5_0", "Q8_0", "MXFP4"])
def test_what_the_package_quantizes(kind):
    weight = np.random.default_rng(1).normal(0, 0.05, (ROWS, WIDTH)).astype(np.float32)
    data = gguf.quants.quantize(weight, gguf.GGMLQuantizationType[kind])
    np.testing.assert_array_equal(import_blocks(kind, data, WIDTH).dequantize(), dequantized(kind, data))


@pytest.mark.parametrize("kind", sorted(UNREPRESENTABLE))
def test_other_types_are_refused_with_a_reason(kind):
    with pytest.raises(UnsupportedError, match=f"GGUF type {kind} cannot be taken over exactly: "):
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
