"""numerics: ONNX affine semantics against onnxruntime, round-trip bounds, packing, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeq import numerics
from edgeq.errors import DataError

DTYPES = ("uint8", "int8", "uint16", "int16")
finite = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


def run_onnx(x, scale, zero_point, axis):
    """The same quantize and dequantize, done by onnxruntime."""
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    kwargs = {} if axis is None else {"axis": axis}
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **kwargs),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **kwargs),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [
            helper.make_tensor_value_info("q", helper.np_dtype_to_tensor_dtype(zero_point.dtype), x.shape),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape),
        ],
        [numpy_helper.from_array(scale, "s"), numpy_helper.from_array(zero_point, "z")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_affine_equals_onnxruntime(dtype, symmetric, axis):
    x = np.random.default_rng(0).normal(0.3, 2.0, (6, 8)).astype(np.float32)
    over = None if axis is None else tuple(a for a in range(2) if a != axis)
    scale, zero = numerics.affine_params(x.min(over) * 0.7, x.max(over) * 0.7, dtype, symmetric)
    q, y = run_onnx(x, scale, zero, axis)
    ours = numerics.quantize_affine(x, scale, zero, dtype, axis)
    np.testing.assert_array_equal(ours, q)
    np.testing.assert_array_equal(numerics.dequantize_affine(ours, scale, zero, axis), y)


def test_rounds_half_to_even_and_saturates():
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 1e30, -1e30], np.float32)
    codes = numerics.quantize_affine(x, np.float32(1), np.int8(0), "int8")
    assert codes.tolist() == [0, 2, 2, 0, -2, 127, -128]


def test_affine_golden():
    scale, zero = numerics.affine_params(-1.0, 3.0, "uint8", symmetric=False)
    assert (scale, zero) == (np.float32(4 / 255), 64)
    scale, zero = numerics.affine_params(-1.0, 3.0, "int8", symmetric=True)
    assert (scale, zero) == (np.float32(3 / 127), 0)
    scale, zero = numerics.affine_params([1.0, -5.0], [2.0, -4.0], "uint8", symmetric=True)
    assert zero.tolist() == [128, 128]
    np.testing.assert_allclose(scale, [2 / 127, 5 / 127], rtol=1e-6)


@given(hnp.arrays(np.float32, st.integers(1, 40), elements=finite), st.sampled_from(DTYPES), st.booleans())
@settings(max_examples=200, deadline=None)
def test_round_trip_error_is_at_most_half_a_step(x, dtype, symmetric):
    scale, zero = numerics.affine_params(x.min(), x.max(), dtype, symmetric)
    codes = numerics.quantize_affine(x, scale, zero, dtype)
    error = np.abs(numerics.dequantize_affine(codes, scale, zero) - x)
    # Half a step, plus the float32 rounding of the scale times the largest code.
    assert error.max() <= scale / 2 + 2.0**-22 * np.abs(x).max()
    assert (
        numerics.dequantize_affine(
            numerics.quantize_affine(np.zeros(1, np.float32), scale, zero, dtype), scale, zero
        )
        == 0
    )


def test_round_trip_bound_can_fail():
    """Outside the range the error is larger than half a step: the bound above is not vacuous."""
    scale, zero = numerics.affine_params(-1.0, 1.0, "int8", symmetric=True)
    x = np.array([1.5], np.float32)
    error = np.abs(
        numerics.dequantize_affine(numerics.quantize_affine(x, scale, zero, "int8"), scale, zero) - x
    )
    assert error > scale


@pytest.mark.parametrize(("lo", "hi"), [(np.nan, 1), (0, np.inf), (2, 1)])
def test_affine_params_refuses_bad_ranges(lo, hi):
    with pytest.raises(DataError):
        numerics.affine_params(lo, hi, "uint8", symmetric=False)


def test_empty_range_gets_scale_one():
    scale, zero = numerics.affine_params(0.0, 0.0, "int8", symmetric=False)
    assert scale == 1
    assert numerics.dequantize_affine(zero, scale, zero) == 0


def test_symmetric_scale():
    np.testing.assert_allclose(numerics.symmetric_scale([7.0, 0.0], 4), [1.0, 1.0])
    with pytest.raises(DataError):
        numerics.symmetric_scale(np.nan, 8)


def test_round_scale_fp16_keeps_sign_and_never_vanishes():
    given_scales = np.array([1.0, -0.1, 1e-12, -1e9, 0.0], np.float32)
    rounded = numerics.round_scale_fp16(given_scales)
    np.testing.assert_array_equal(rounded, [1.0, np.float32(np.float16(-0.1)), 2.0**-24, -65504.0, 2.0**-24])


@given(st.integers(1, 70), st.sampled_from([16, 32, -1]))
@settings(max_examples=60, deadline=None)
def test_split_blocks_pads_and_joins_back(length, block_size):
    rows = np.arange(3 * length, dtype=np.float32).reshape(3, length) + 1
    blocks = numerics.split_blocks(rows, block_size)
    assert blocks.shape[:2] == (3, numerics.block_count(length, block_size))
    np.testing.assert_array_equal(numerics.join_blocks(blocks, length), rows)
    assert (blocks.reshape(3, -1)[:, length:] == 0).all()


@given(
    hnp.arrays(np.float32, (3, 2, 16), elements=st.floats(-100, 100, width=32)),
    st.sampled_from([4, 8]),
)
@settings(max_examples=100, deadline=None)
def test_block_round_trip_error_is_at_most_half_a_step(blocks, bits):
    # d = largest / -2^(bits-1), the signed full range: the opposite end saturates one step early.
    index = np.abs(blocks).argmax(-1)[..., None]
    top = np.take_along_axis(blocks, index, -1)[..., 0]
    scales = np.where(np.abs(top) > 1e-6, top / -(2.0 ** (bits - 1)), 1.0).astype(np.float32)
    codes = numerics.quantize_blocks(blocks, scales, None, bits)
    steps = np.abs(numerics.dequantize_blocks(codes, scales, None, bits) - blocks) / np.abs(scales[..., None])
    inside = codes < 2**bits - 1
    assert (steps[inside] <= 0.5 + 1e-4).all()
    assert (steps <= 1 + 1e-4).all()


def test_block_golden_with_zero_points():
    blocks = np.array([[[-1.0, 0.0, 1.0, 2.0]]], np.float32)
    codes = numerics.quantize_blocks(blocks, np.array([[0.2]], np.float32), np.array([[5]], np.uint8), 4)
    assert codes.tolist() == [[[0, 5, 10, 15]]]
    assert codes.dtype == np.uint8
    values = numerics.dequantize_blocks(codes, np.array([[0.2]], np.float32), np.array([[5]], np.uint8), 4)
    np.testing.assert_allclose(values, blocks, atol=1e-6)


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.integers(0, 15)))
@settings(max_examples=100, deadline=None)
def test_pack_int4_is_exact(codes):
    packed = numerics.pack_int4(codes)
    assert packed.shape == numerics.packed_int4_shape(codes.shape)
    np.testing.assert_array_equal(numerics.unpack_int4(packed, codes.shape[-1]), codes)
    signed = codes.astype(np.int8) - 8
    back = numerics.unpack_int4(numerics.pack_int4(signed), codes.shape[-1], signed=True)
    assert back.dtype == np.int8
    np.testing.assert_array_equal(back, signed)


def test_pack_int4_golden_bytes():
    assert numerics.pack_int4(np.array([1, 2, 15, 0, 7], np.uint8)).tolist() == [0x21, 0x0F, 0x07]
    assert numerics.pack_int4(np.array([-8, 7, -1], np.int8)).tolist() == [0x78, 0x0F]


@pytest.mark.parametrize("codes", [[16, 0], [-9, 0]])
def test_pack_int4_refuses_wide_codes(codes):
    with pytest.raises(DataError, match="4-bit codes"):
        numerics.pack_int4(np.array(codes, np.int16))


def test_unpack_int4_refuses_a_wrong_length():
    with pytest.raises(DataError, match="packed bytes"):
        numerics.unpack_int4(np.zeros((1, 2), np.uint8), 5)
