"""GPTQ and AWQ layers: codes, zero points and scales are those of the file, whatever the packing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeq.errors import ModelError, UnsupportedError
from edgeq.quantize.weight_only.awq_import import AwqLayer, import_awq
from edgeq.quantize.weight_only.gptq_import import GptqLayer, import_gptq
from edgeq.quantize.weight_only.matmul_nbits import to_block_weight

OUTPUTS, INPUTS = 24, 320


def random_weight(seed=0):
    return np.random.default_rng(seed).normal(0, 0.05, (OUTPUTS, INPUTS)).astype(np.float32)


@pytest.fixture(scope="module")
def gptq(packed_checkpoints):
    return packed_checkpoints.gptq


@pytest.fixture(scope="module")
def awq(packed_checkpoints):
    return packed_checkpoints.awq


def gptq_layer(packed):
    return GptqLayer(**packed.tensors)


def awq_layer(packed):
    return AwqLayer(**packed.tensors)


def assert_is(found, weight):
    """Bit-equal as computed and as stored: these products of a float16 and a small integer are exact in float32."""
    np.testing.assert_array_equal(found.dequantize().T, weight)
    stored = to_block_weight(found).dequantize().T
    order = slice(None) if found.input_order is None else np.argsort(found.input_order)
    np.testing.assert_array_equal(stored[:, order], weight)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [-1, 32, 64, 128])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("scattered", [False, True])
def test_gptq_is_bit_equal(gptq, bits, group_size, symmetric, version, scattered):
    order = np.random.default_rng(1).permutation(INPUTS) if scattered else None
    packed = gptq(random_weight(), bits, group_size, version=version, symmetric=symmetric, order=order)
    found = import_gptq(gptq_layer(packed), bits, group_size, version=version)
    assert_is(found, packed.weight)
    assert found.spec.scale_dtype == "float16"
    assert (found.zero_points is None) == symmetric
    assert (found.input_order is None) == (not scattered or group_size == -1)


@pytest.mark.parametrize("group_size", [-1, 32, 64, 128])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("layout", ["gemm", "gemv"])
def test_awq_is_bit_equal(awq, group_size, symmetric, layout):
    packed = awq(random_weight()[:, :256], group_size, layout=layout, symmetric=symmetric)
    found = import_awq(awq_layer(packed), group_size, layout)
    assert_is(found, packed.weight)
    assert (found.zero_points is None) == symmetric


def test_codes_and_scales_are_the_files(gptq, packed_checkpoints):
    rounded = packed_checkpoints.round_weight(random_weight(), 4, 64)
    found = import_gptq(gptq_layer(gptq(random_weight(), 4, 64)), 4, 64, version=1)
    np.testing.assert_array_equal(found.q.reshape(OUTPUTS, INPUTS), rounded.codes)
    np.testing.assert_array_equal(found.scales, rounded.scales.T)
    np.testing.assert_array_equal(found.zero_points, rounded.zeros.T)


@pytest.mark.parametrize(("group_size", "block"), [(160, 32), (96, 32), (512, -1)])
def test_groups_of_other_sizes_become_blocks_that_divide_them(gptq, group_size, block):
    packed = gptq(random_weight(), 4, group_size)
    found = import_gptq(gptq_layer(packed), 4, group_size, version=1)
    assert found.spec.block_size == block
    assert_is(found, packed.weight)


def test_the_wrong_rule_or_a_changed_field_is_another_weight(gptq, awq):
    """The twin: the comparisons above see a single code, and the version."""
    packed = gptq(random_weight(), 4, 32, version=2)
    assert (packed.weight != import_gptq(gptq_layer(packed), 4, 32, version=1).dequantize().T).any()
    packed.tensors["qweight"][3, 5] ^= 0x100
    changed = packed.weight != import_gptq(gptq_layer(packed), 4, 32, version=2).dequantize().T
    assert np.argwhere(changed).tolist() == [[5, 26]]
    packed = awq(random_weight()[:, :256], 32)
    # Field 2 of the second word of input 3: output 8 + 4.
    packed.tensors["qweight"][3, 1] ^= 0x100
    changed = packed.weight != import_awq(awq_layer(packed), 32, "gemm").dequantize().T
    assert np.argwhere(changed).tolist() == [[12, 3]]


def test_a_zero_point_of_zero_wraps_back(gptq):
    """Version 1 as GPTQModel writes it: a one is taken off whole words, so that 0 borrows from the next field."""
    packed = gptq(random_weight(), 4, 32, version=2)
    words = packed.tensors["qzeros"]
    words[0, 0] &= ~0xF
    layer = gptq_layer(packed)
    wanted = import_gptq(layer, 4, 32, version=2)
    taken_off = (words.view(np.uint32) - np.uint32(0x11111111)).view(np.int32)
    found = import_gptq(replace(layer, qzeros=taken_off), 4, 32, version=1)
    assert wanted.zero_points.min() == 0
    np.testing.assert_array_equal(found.zero_points, wanted.zero_points)


def test_bfloat16_scales_are_kept_in_float32(gptq):
    packed = gptq(random_weight(), 4, 32)
    scales = (packed.tensors["scales"].astype(np.float32).view(np.uint32) & 0xFFFF0000).view(
        np.float32
    ) * 1e-6
    layer = replace(gptq_layer(packed), scales=scales)
    found = import_gptq(layer, 4, 32, version=1)
    assert found.spec.scale_dtype == "float32"
    np.testing.assert_array_equal(to_block_weight(found).scales, scales.T)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qweight": np.zeros((40, 24), np.int64)}, "qweight is int64; expected int32"),
        ({"qzeros": np.zeros((10, 2), np.int32)}, r"qzeros of shape \[10, 2\]; expected \[10, 3\]"),
        ({"scales": np.zeros((9, 24), np.float16)}, r"scales of shape \[9, 24\]; expected \[10, 24\]"),
        ({"scales": np.full((10, 24), np.nan, np.float16)}, "240 of 240 scales are NaN or infinite"),
        ({"g_idx": np.full(320, 10, np.int32)}, r"naming groups 10 to 10; expected \[320\] naming 0 to 9"),
        ({"g_idx": np.zeros(319, np.int32)}, r"g_idx of shape \[319\]"),
        ({"g_idx": np.full(320, -1, np.int32)}, "naming groups -1 to -1"),
    ],
)
def test_gptq_tensors_that_do_not_fit(gptq, change, message):
    layer = replace(gptq_layer(gptq(random_weight(), 4, 32)), **change)
    with pytest.raises(ModelError, match=message):
        import_gptq(layer, 4, 32, version=1)


def test_groups_of_unequal_size_are_refused(gptq):
    layer = gptq_layer(gptq(random_weight(), 4, 32))
    uneven = layer.g_idx.copy()
    uneven[0] = 9
    with pytest.raises(
        UnsupportedError, match="g_idx puts 31 to 33 inputs in a group; blocks need 32 in each"
    ):
        import_gptq(replace(layer, g_idx=uneven), 4, 32, version=1)


@pytest.mark.parametrize("bits", [2, 3])
def test_other_bits_are_refused(gptq, bits):
    with pytest.raises(UnsupportedError, match=f"GPTQ with {bits} bits; expected 4 or 8"):
        import_gptq(gptq_layer(gptq(random_weight(), 4, 32)), bits, 32, version=1)


def test_groups_that_no_block_divides(gptq):
    packed = gptq(random_weight(), 4, 40)
    with pytest.raises(UnsupportedError, match="groups of 40 inputs; expected a multiple of 16"):
        import_gptq(gptq_layer(packed), 4, 40, version=1)


@pytest.mark.parametrize(
    ("change", "layout", "message"),
    [
        ({"qweight": np.zeros((256, 3), np.int16)}, "gemm", "qweight is int16"),
        ({"qzeros": np.zeros((8, 4), np.int32)}, "gemm", r"qzeros of shape \[8, 4\]; expected \[8, 3\]"),
        ({"scales": np.zeros((8, 3), np.float16)}, "gemm", r"scales of shape \[8, 3\]; expected \[8, 24\]"),
        ({}, "gemv", r"qzeros of shape \[8, 3\]; expected \[256, 3\]"),
        ({}, "marlin", None),
    ],
)
def test_awq_tensors_that_do_not_fit(awq, change, layout, message):
    layer = replace(awq_layer(awq(random_weight()[:, :256], 32)), **change)
    kind = ModelError if message else UnsupportedError
    with pytest.raises(kind, match=message or "AWQ in layout `marlin`; expected gemm or gemv"):
        import_awq(layer, 8 if layout == "gemv" else 32, layout)
