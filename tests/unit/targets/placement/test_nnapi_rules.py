"""One accepted and one refused model for every operator NNAPI knows."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.targets.placement import predict
from edgeq.targets.placement.nnapi_rules import NNAPI_RULES

F, I64, U8, I8 = np.float32, np.int64, np.uint8, np.int8
W33 = np.ones((3, 3), F)
CONV_W = np.ones((4, 3, 3, 3), F)
IMAGE, X4 = "f32[1,3,8,8]", "f32[1,2,3,4]"
SCALE, ZERO = F(0.1), U8(3)
RANK5 = "f32[1,1,1,2,3]"
QLINEAR = ("u8[2,3]", SCALE, ZERO)


def ints(*values):
    return np.array(values, I64)


def two(op, spec="f32[2,3]", **kw):
    return {"op": op, "inputs": (spec, spec), **kw}


def one(op, spec="f32[2,3]", **kw):
    return {"op": op, "inputs": (spec,), **kw}


UNARY = ["Relu", "Tanh", "Floor", "Abs", "Exp", "Log", "Neg", "Sin", "Sqrt", "Identity", "Sigmoid"]
BINARY = ["Add", "Mul", "Sub", "Div"]
BN = tuple(np.ones(3, F) for _ in range(4))
POOL = {"kernel_shape": [2, 2]}

# (accepted, refused, part of the reason)
CASES = [
    *[(one(op), one(op, "f16[2,3]"), "input 0 is float16, expected float32") for op in UNARY],
    *[(two(op), two(op, RANK5), "input 0 has rank 5, expected rank 0 to 4") for op in BINARY],
    (two("Pow"), {"op": "Pow", "inputs": ("f32[2]", "i64[2]")}, "input 1 is int64, expected float32"),
    (two("PRelu"), two("PRelu", RANK5), "input 0 has rank 5"),
    (two("Max"), {"op": "Max", "inputs": ("f32[2]",) * 3}, "3 inputs, expected exactly 2"),
    (two("Min"), one("Min"), "1 inputs, expected exactly 2"),
    (
        {"op": "Clip", "inputs": ("f32[2]", F(0), F(6))},
        {"op": "Clip", "inputs": ("f32[2]", F(0), F(5))},
        "clips to [0, 5], expected [0, 6] or [-1, 1]",
    ),
    (one("Elu", api_level=30), one("Elu", api_level=29), "needs Android API level 30, the target has 29"),
    (one("LeakyRelu"), one("LeakyRelu", "f32[]"), "input 0 has rank 0, expected rank 1 to 4"),
    (one("Cast", to=6), one("Cast", to=7), "casts to int64, expected float32 or int32"),
    (one("Softmax", axis=-1), one("Softmax", RANK5, axis=-1), "input 0 has rank 5"),
    (
        {"op": "ReduceMean", "inputs": ("f32[2,3]", ints(1)), "opset": 18},
        {"op": "ReduceMean", "inputs": ("f32[2,3]", "i64[1]"), "opset": 18},
        "axes (input 1) must be a constant",
    ),
    (
        {"op": "BatchNormalization", "inputs": (IMAGE, *BN)},
        {"op": "BatchNormalization", "inputs": (IMAGE, *BN[:3], "f32[3]")},
        "var (input 4) must be a constant",
    ),
    (one("LRN", IMAGE, size=3), one("LRN", "f32[1,3,8]", size=3), "input 0 has rank 3, expected rank 4"),
    (
        {"op": "MatMul", "inputs": ("f32[2,3]", W33)},
        {"op": "MatMul", "inputs": ("f32[1,2,3]", W33)},
        "A and B must be 2-D",
    ),
    (
        {"op": "Gemm", "inputs": ("f32[2,3]", W33, np.ones(3, F))},
        {"op": "Gemm", "inputs": ("f32[3,2]", W33), "transA": 1},
        "attribute transA is 1, expected 0",
    ),
    (
        {"op": "Conv", "inputs": (IMAGE, CONV_W)},
        {"op": "Conv", "inputs": (IMAGE, "f32[4,3,3,3]")},
        "weight (input 1) must be a constant",
    ),
    (
        {"op": "Gather", "inputs": (np.ones((9, 4), F), "i32[1,5]")},
        {"op": "Gather", "inputs": (np.ones((9, 4), F), "i64[1,5]")},
        "indices are int64 and not constant, expected int32",
    ),
    (
        {"op": "Reshape", "inputs": ("f32[2,3]", ints(3, 2))},
        {"op": "Reshape", "inputs": ("f32[2,3]", "i64[2]")},
        "shape (input 1) must be a constant",
    ),
    (one("Flatten", X4), one("Flatten", RANK5), "input 0 has rank 5"),
    (
        {"op": "Squeeze", "inputs": ("f32[1,3]", ints(0))},
        {"op": "Squeeze", "inputs": ("f32[1,3]", "i64[1]")},
        "axes (input 1) must be a constant",
    ),
    (
        {"op": "Unsqueeze", "inputs": ("f32[3]", ints(0))},
        {"op": "Unsqueeze", "inputs": ("f32[3]", "i64[1]")},
        "axes (input 1) must be a constant",
    ),
    (one("Transpose"), one("Transpose", "u8[2,3]"), "uint8 and comes from outside the partition"),
    (two("Concat", axis=0), two("Concat", "i64[2]", axis=0), "input 0 is int64, expected float32 or uint8"),
    (
        {"op": "Slice", "inputs": ("f32[4]", ints(0), ints(2))},
        {"op": "Slice", "inputs": ("f32[4]", ints(0), "i64[1]")},
        "ends (input 2) must be a constant",
    ),
    (
        {"op": "Split", "inputs": ("f32[4]", ints(2, 2)), "outputs": 2},
        {"op": "Split", "inputs": ("f32[4]", ints(1, 3)), "outputs": 2},
        "parts [1, 3] are not equal",
    ),
    (
        {"op": "Pad", "inputs": ("f32[4]", ints(1, 1))},
        {"op": "Pad", "inputs": ("f32[4]", ints(1, 1)), "mode": "reflect"},
        "attribute mode is reflect, expected constant",
    ),
    (
        one("AveragePool", IMAGE, **POOL),
        one("AveragePool", IMAGE, count_include_pad=1, **POOL),
        "attribute count_include_pad is 1, expected 0",
    ),
    (
        one("MaxPool", IMAGE, **POOL),
        one("MaxPool", IMAGE, dilations=[2, 2], **POOL),
        "dilations are [2, 2], expected 1",
    ),
    *[
        (one(op, IMAGE), one(op, "f32[1,3,8]"), "input 0 has rank 3, expected rank 4")
        for op in ("GlobalAveragePool", "GlobalMaxPool")
    ],
    (
        one("DepthToSpace", "f32[1,4,2,2]", blocksize=2),
        one("DepthToSpace", "f32[1,4,2,2]", blocksize=2, mode="CRD"),
        "attribute mode is CRD, expected DCR",
    ),
    (
        {
            "op": "Resize",
            "inputs": (IMAGE, None, np.array([1, 1, 2, 2], F)),
            "mode": "linear",
            "coordinate_transformation_mode": "asymmetric",
        },
        {"op": "Resize", "inputs": (IMAGE, None, np.array([1, 1, 2, 2], F)), "mode": "cubic"},
        "cubic with half_pixel",
    ),
    (
        {"op": "QuantizeLinear", "inputs": ("f32[2,3]", SCALE, ZERO)},
        {"op": "QuantizeLinear", "inputs": ("f32[2,3]", SCALE, I8(0))},
        "output is int8, expected uint8",
    ),
    (
        {"op": "DequantizeLinear", "inputs": ("u8[2,3]", SCALE, ZERO)},
        {"op": "DequantizeLinear", "inputs": ("i8[2,3]", SCALE, I8(0))},
        "input is int8, expected uint8",
    ),
    (
        {
            "op": "QLinearConv",
            "inputs": ("u8[1,3,8,8]", SCALE, ZERO, CONV_W.astype(U8), SCALE, ZERO, SCALE, ZERO),
        },
        {
            "op": "QLinearConv",
            "inputs": ("i8[1,3,8,8]", SCALE, I8(0), CONV_W.astype(I8), SCALE, I8(0), SCALE, I8(0)),
        },
        "input 0 is int8, expected uint8",
    ),
    (
        {"op": "QLinearMatMul", "inputs": (*QLINEAR, W33.astype(I8), SCALE, I8(0), SCALE, ZERO)},
        {
            "op": "QLinearMatMul",
            "inputs": (*QLINEAR, W33.astype(I8), np.ones(3, F), np.zeros(3, I8), SCALE, ZERO),
        },
        "B is quantized per channel, expected per tensor",
    ),
    *[
        (
            {"op": op, "inputs": (*QLINEAR, *QLINEAR, SCALE, ZERO), "domain": "com.microsoft"},
            {"op": op, "inputs": (*QLINEAR, *QLINEAR, "f32[]", ZERO), "domain": "com.microsoft"},
            "scale of the output (input 6) must be a constant",
        )
        for op in ("QLinearAdd", "QLinearMul")
    ],
    (
        {"op": "QLinearSigmoid", "inputs": (*QLINEAR, F(1 / 256), U8(0)), "domain": "com.microsoft"},
        {"op": "QLinearSigmoid", "inputs": (*QLINEAR, F(1 / 255), U8(0)), "domain": "com.microsoft"},
        "expected exactly 1/256 and 0",
    ),
    (
        {
            "op": "QLinearAveragePool",
            "inputs": ("u8[1,3,8,8]", SCALE, ZERO, SCALE, ZERO),
            "domain": "com.microsoft",
            **POOL,
        },
        {
            "op": "QLinearAveragePool",
            "inputs": ("u8[1,3,8,8]", SCALE, ZERO, F(0.2), ZERO),
            "domain": "com.microsoft",
            **POOL,
        },
        "input and output quantization differ",
    ),
]

# Further reasons of the same operators.
OLD_SOFTMAX = one("Softmax", RANK5, opset=11)

REFUSED = [
    (one("Tanh", "f32[batch,3]"), "input 0 has shape [batch, 3], expected fixed dimensions"),
    (one("Gelu", opset=20), "Gelu has no NNAPI implementation"),
    (one("LayerNormalization"), "LayerNormalization has no NNAPI implementation"),
    (one("Relu", opset=25, release="1.21"), "the model's opset 25 is above 22"),
    (one("Relu", api_level=26), "Android API level 26 has no NNAPI"),
    (one("Cast", "i64[2]", to=1), "input 0 is int64, expected float32"),
    (one("Clip"), "clips to [-inf, inf]"),
    ({"op": "MatMul", "inputs": ("f32[2,3]", "f32[3,3]")}, "B of a 2-D MatMul must be a constant"),
    ({"op": "MatMul", "inputs": ("f32[2,1,2,3]", "f32[1,1,3,2]")}, "equal leading dimensions"),
    ({"op": "Gemm", "inputs": ("f32[2,3]", "f32[3,3]")}, "B must be a constant when transB=0"),
    ({"op": "Gemm", "inputs": ("f32[2,3]", W33, np.ones((2, 1), F))}, "bias of shape [2, 1], expected [3]"),
    ({"op": "Gemm", "inputs": ("f32[2,3]", W33), "alpha": 0.5}, "attribute alpha is 0.5, expected 1.0"),
    ({"op": "Gather", "inputs": ("f32[0,4]", "i32[1]")}, "input 0 of shape [0, 4] is empty"),
    ({"op": "Pad", "inputs": ("f32[4]", ints(-1, 1))}, "negative pads"),
    ({"op": "Split", "inputs": ("f32[4]",), "outputs": 2, "opset": 18, "num_outputs": 3}, "num_outputs is 3"),
    ({"op": "Conv", "inputs": ("f32[1,3,8]", np.ones((4, 3, 3), F))}, "weight has rank 3, expected 4"),
    ({"op": "DequantizeLinear", "inputs": ("u8[2,3]", "f32[]", ZERO)}, "the scale must be a constant"),
    (
        {"op": "DequantizeLinear", "inputs": ("u8[2,3]", np.ones(3, F), np.zeros(3, U8)), "axis": 1},
        "the scale is per channel, expected per tensor",
    ),
    (
        {"op": "Slice", "inputs": ("f32[4]",), "opset": 9, "starts": [0], "ends": [2]},
        "is too old, needs at least 10",
    ),
    (one("AveragePool", IMAGE, kernel_shape=[2, 2], ceil_mode=1), "attribute ceil_mode is 1"),
    (one("AveragePool", IMAGE, kernel_shape=[2]), "kernel_shape is [2], expected two numbers"),
    (one("MaxPool", IMAGE, outputs=2, **POOL), "2 outputs, expected 1"),
]


def prediction(builder, op, inputs, opset=17, api_level=29, release="1.27", outputs=1, **attributes):
    build = builder(opset)
    last = build.node(op, inputs, outputs=outputs, **attributes)
    if op in ("Reshape", "Flatten", "Identity"):
        build.node("Tanh", [f"={last}"])  # alone they are left on the CPU
    return predict(
        build.model(), target="android", api_level=api_level, onnxruntime_release=release, optimized=False
    ).as_shipped


def test_every_row_has_an_accepted_and_a_refused_model():
    assert sorted({accepted["op"] for accepted, _, _ in CASES}) == sorted(NNAPI_RULES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0]["op"])
def test_accepted(builder, case):
    found = prediction(builder, **case[0])
    assert found.refused == ()
    assert (found.taken, found.partitions) == (found.nodes, 1)
    assert found.min_android_api is not None
    assert found.min_android_api <= case[0].get("api_level", 29)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0]["op"])
def test_refused(builder, case):
    found = prediction(builder, **case[1])
    assert case[2] in found.refused[0].reason
    assert found.refused[0].op == case[1]["op"]


@pytest.mark.parametrize(
    ("case", "reason"), REFUSED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_further_refusals(builder, case, reason):
    found = prediction(builder, **case)
    assert reason in found.refused[0].reason
    assert found.taken == 0


def test_old_softmax_takes_any_rank(builder):
    assert prediction(builder, **OLD_SOFTMAX).is_full


LEVELS = [
    (one("Softmax", axis=-1), 28),
    (one("Softmax", axis=0), 29),
    (one("Softmax"), 28),  # a missing axis is read as 1, here the last one
    (one("Softmax", "f32[1,2,3]", axis=-1), 29),
    ({"op": "MatMul", "inputs": ("f32[2,3]", W33)}, 27),
    ({"op": "MatMul", "inputs": ("f32[2,2,3]", "f32[2,3,2]")}, 29),
    ({"op": "Gemm", "inputs": ("f32[2,3]", W33, np.ones(3, F))}, 27),
    ({"op": "Gemm", "inputs": ("f32[2,3]", W33, np.ones((1, 3), F))}, 28),
    (one("LeakyRelu"), 29),
    (one("Sqrt"), 29),
]


@pytest.mark.parametrize(("case", "level"), LEVELS)
def test_android_api_level_needed(builder, case, level):
    assert prediction(builder, **case).min_android_api == level


def test_batched_matmul_counts_the_operations_it_expands_to(builder):
    rank4 = prediction(builder, "MatMul", ("f32[1,12,8,4]", "f32[1,12,4,8]"))
    rank3 = prediction(builder, "MatMul", ("f32[12,8,4]", "f32[12,4,8]"))
    flat = prediction(builder, "MatMul", ("f32[2,3]", W33))
    counts = [found.expanded_operations for found in (rank4, rank3, flat)]
    assert counts == [4 * 12 + 7, 4 * 12 + 4, 1]


def test_fix_is_given_where_one_is_known(builder):
    found = prediction(builder, "MatMul", ("f32[1,2,3]", W33))
    assert "Gemm" in found.refused[0].fix
    assert prediction(builder, "LRN", ("f32[1,3,8]",), size=3).refused[0].fix is None
