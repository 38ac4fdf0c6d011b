"""One accepted and one refused QDQ group for every operator NNAPI takes quantized."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.targets.placement import predict
from edgeq.targets.placement.nnapi_qdq_rules import NNAPI_GROUP_RULES

F, U8, I8, I32, I64 = np.float32, np.uint8, np.int8, np.int32, np.int64
IN = (F(0.1), U8(3))
OUT = (F(0.2), U8(5))
SOFTMAX_OUT = (F(1 / 256), U8(0))
W = np.ones((3, 4), I8)
SYMMETRIC = (F(0.3), I8(0))
BIAS = (np.ones(4, I32), F(0.03), I32(0))
IMAGE = "u8[1,3,8,8]"
CONV_W = np.ones((4, 3, 3, 3), I8)
PER_CHANNEL = (np.full(4, 0.3, F), np.zeros(4, I8))


def quantized(op, *inputs, out=OUT, plain=(), **attributes):
    """`inputs` are (value, scale, zero point[, axis]) behind DQs, `plain` follow them as they are."""
    return {"op": op, "inputs": inputs, "out": out, "plain": plain, **attributes}


def u8(spec="u8[2,3]", params=IN):
    return (spec, *params)


CASES = [
    (
        quantized("Add", u8(), u8()),
        quantized("Add", *[u8("i8[2,3]", (F(0.1), I8(0)))] * 2, out=SYMMETRIC),
        "int8",
    ),
    (
        quantized("Mul", u8(), u8()),
        quantized("Mul", u8("u8[1,1,1,2,3]"), u8("u8[1,1,1,2,3]")),
        "input 0 has rank 5",
    ),
    (
        quantized("Concat", u8(), u8(), axis=0),
        quantized("Concat", u8(), u8(params=OUT), axis=0, out=IN, api_level=28),
        "needs feature level 29",
    ),
    (
        quantized("Softmax", u8(), out=SOFTMAX_OUT, axis=-1),
        quantized("Softmax", u8(), axis=-1),
        "exactly 1/256 and 0",
    ),
    (
        quantized("Reshape", u8(), out=IN, plain=(np.array([3, 2], I64),)),
        quantized("Reshape", u8(), out=IN, plain=("i64[2]",)),
        "shape (input 1) must be a constant",
    ),
    (
        quantized("Transpose", u8(), out=IN),
        quantized("Transpose", u8("i8[2,3]", SYMMETRIC), out=SYMMETRIC),
        "quantized input 0 is int8, expected uint8",
    ),
    (
        quantized(
            "Resize", u8(IMAGE), out=IN, plain=(None, np.array([1, 1, 2, 2], F)), mode="linear", api_level=30
        ),
        quantized(
            "Resize", u8(IMAGE), out=IN, plain=(None, np.array([1, 2, 2, 2], F)), mode="linear", api_level=30
        ),
        "batch or channels are scaled",
    ),
    (
        quantized("AveragePool", u8(IMAGE), out=IN, kernel_shape=[2, 2]),
        quantized("AveragePool", u8(IMAGE), out=OUT, kernel_shape=[2, 2]),
        "input and output quantization differ",
    ),
    (
        quantized("MatMul", u8(), (W, *SYMMETRIC)),
        quantized("MatMul", u8("u8[1,2,3]"), u8("u8[1,3,4]")),
        "a quantized MatMul of ranks 3 x 3, expected 2-D x 2-D",
    ),
    (
        quantized("Gemm", u8(), (W, *SYMMETRIC), BIAS),
        quantized("Gemm", u8(), (W, *PER_CHANNEL, 1)),
        "weight has 4 scales, expected one per tensor",
    ),
    (
        quantized("Conv", u8(IMAGE), (CONV_W, *PER_CHANNEL, 0)),
        quantized("Conv", u8(IMAGE), (CONV_W, F(0.3), I8(1))),
        "int8 weights need an int8 zero point of 0",
    ),
]

REFUSED = [
    (quantized("Gather", u8("u8[9,4]"), out=IN, plain=("i32[2]",)), "no supported quantized group"),
    (
        quantized("Squeeze", u8("u8[1,3]"), out=IN, plain=(np.array([0], I64),)),
        "no supported quantized group",
    ),
    (quantized("Sub", u8(), u8()), "no supported quantized group"),
    (quantized("Tanh", u8()), "no supported quantized group"),
    (quantized("MatMul", u8(), u8("u8[3,4]")), "the quantized weight (input 1) must be a constant"),
    (quantized("MatMul", u8(), (W, *PER_CHANNEL, 1)), "weight has 4 scales, expected one per tensor"),
    (quantized("Conv", u8(IMAGE), (CONV_W, *PER_CHANNEL, 0), api_level=28), "weight has 4 scales"),
    (quantized("Add", u8(), u8(params=("f32[]", U8(3)))), "the scale of input 1 must be a constant"),
]


def build_group(builder, op, inputs, out, plain=(), opset=17, **attributes):
    build = builder(opset)
    names = [
        build.dq(value, scale, zero, **({"axis": rest[0]} if rest else {}))
        for value, scale, zero, *rest in inputs
    ]
    last = build.node(op, [*(f"={name}" for name in names), *plain], **attributes)
    if out is not None:
        build.q(last, *out)
    return build.model()


def prediction(builder, api_level=29, **case):
    model = build_group(builder, **case)
    return predict(model, target="android", api_level=api_level, optimized=False).as_shipped


def test_every_row_has_an_accepted_and_a_refused_group():
    assert sorted({accepted["op"] for accepted, _, _ in CASES}) == sorted(NNAPI_GROUP_RULES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0]["op"])
def test_accepted(builder, case):
    found = prediction(builder, **case[0])
    assert found.refused == ()
    assert found.units == 1
    assert (found.taken, found.partitions, found.landmines) == (found.nodes, 1, ())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0]["op"])
def test_refused(builder, case):
    found = prediction(builder, **case[1])
    assert case[2] in found.refused[0].reason
    assert found.units == 1
    assert found.taken == 0


@pytest.mark.parametrize(
    ("case", "reason"), REFUSED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_further_refusals(builder, case, reason):
    found = prediction(builder, **case)
    assert found.units == 1
    assert all(reason in refused.reason for refused in found.refused)
    assert len(found.refused) == found.nodes


def test_operator_refused_in_a_group_is_taken_without_the_q(builder):
    """Tanh has a float form: DequantizeLinear above is fine, the full sandwich is not."""
    case = quantized("Tanh", u8())
    sandwich = prediction(builder, **case)
    open_below = prediction(builder, **(case | {"out": None}))
    assert (sandwich.taken, sandwich.nodes) == (0, 3)
    assert (open_below.taken, open_below.nodes) == (2, 2)


def test_copying_operators_form_a_group_only_with_equal_quantization(builder):
    equal = prediction(builder, **quantized("Reshape", u8(), out=IN, plain=(np.array([3, 2], I64),)))
    different = prediction(builder, **quantized("Reshape", u8(), out=OUT, plain=(np.array([3, 2], I64),)))
    assert (equal.units, different.units) == (1, 3)


def test_float_operand_prevents_a_binary_group(builder):
    build = builder()
    dq = build.dq("u8[2,3]", *IN)
    build.q(build.node("Mul", [f"={dq}", F([2.0])]), *OUT)
    found = predict(build.model(), target="android", optimized=False).as_shipped
    assert (found.units, found.taken) == (3, 3)


def test_relu_that_the_range_makes_redundant_belongs_to_the_group(builder):
    def relu_before_q(zero):
        build = builder()
        names = [build.dq("u8[2,3]", *IN), build.dq("u8[2,3]", *IN)]
        added = build.node("Add", [f"={name}" for name in names])
        build.q(build.node("Relu", [f"={added}"]), F(0.2), U8(zero))
        return predict(build.model(), target="android", optimized=False).as_shipped

    assert relu_before_q(0).units == 1  # zero point 0: nothing below 0 can be represented
    assert relu_before_q(5).units == 5


def test_shared_dq_is_duplicated_for_each_consumer(builder):
    build = builder()
    dq = build.dq("u8[2,3]", *IN)
    build.q(build.node("Add", [f"={dq}", f"={dq}"]), *OUT)
    found = predict(build.model(), target="android", optimized=False).as_shipped
    assert (found.nodes, found.units, found.taken) == (4, 1, 4)
    assert [name for name in found.partition_nodes[0] if "copy" in name] == ["DequantizeLinear_0/copy_1"]


def test_weight_without_zero_point_is_accepted(builder):
    build = builder()
    activation = build.dq("u8[2,3]", *IN)
    weight = build.node("DequantizeLinear", [W, F(0.3)])
    build.q(build.node("Gemm", [f"={activation}", f"={weight}"]), *OUT)
    assert predict(build.model(), target="android", optimized=False).as_shipped.is_full
