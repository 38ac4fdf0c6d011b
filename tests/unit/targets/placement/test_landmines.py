"""Each landmine is found, and is not found in the model without it."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.targets.placement import predict

F, U8, I8, I64 = np.float32, np.uint8, np.int8, np.int64
IN, OUT = (F(0.1), U8(3)), (F(0.2), U8(5))


def codes(build, **options):
    report = predict(build.model(), target="android", optimized=False, **options)
    return [mine.code for mine in report.landmines]


def gemm(build, weight, scale, zero, *, with_q=True, **attributes):
    activation = build.dq("u8[4,4]", *IN)
    options = {"axis": attributes.pop("axis")} if "axis" in attributes else {}
    b = build.dq(weight, scale, zero, **options)
    y = build.node("Gemm", [f"={activation}", f"={b}"], **attributes)
    if with_q:
        build.q(y, *OUT)
    return build


W = np.ones((4, 4), I8)
GEMMS = [
    ("gemm-without-q", (W, F(0.3), I8(0)), {"with_q": False}),
    ("gemm-dynamic-b", ("u8[4,4]", F(0.3), U8(0)), {"transB": 1}),
    ("gemm-int8-transb", (W, F(0.3), I8(0)), {"transB": 1}),
    ("gemm-per-channel", (W, np.full(4, 0.3, F), np.zeros(4, I8)), {"axis": 1}),
]


@pytest.mark.parametrize(("code", "weight", "options"), GEMMS, ids=[case[0] for case in GEMMS])
def test_quantized_gemm(builder, code, weight, options):
    assert codes(gemm(builder(), *weight, **options)) == [code]


def test_plain_quantized_gemm_has_none(builder):
    assert codes(gemm(builder(), W, F(0.3), I8(0))) == []
    assert codes(gemm(builder(), W.astype(U8), F(0.3), U8(0), transB=1)) == []


@pytest.mark.parametrize(
    ("second", "expected"), [(IN, []), (OUT, ["scale-mismatch"])], ids=["same", "different"]
)
def test_scale_mismatch(builder, second, expected):
    build = builder()
    q = build.q(build.node("Tanh", ["f32[2]"]), *IN)
    build.node("Relu", [f"={build.dq(f'={q}', *second)}"])
    assert codes(build) == expected


@pytest.mark.parametrize("shared", [True, False])
def test_shared_scale(builder, shared):
    build = builder()
    scale = build.value(F(0.5))
    factor = f"={scale}" if shared else F(0.5)
    halved = build.node("Mul", ["f32[2]", factor])
    q = build.q(halved, f"={scale}", U8(0))
    build.dq(f"={q}", f"={scale}", U8(0))
    assert codes(build) == (["shared-scale"] if shared else [])


def test_constant_sharing_at_level_1_brings_the_landmine_in(builder):
    """Two equal scalars become one initializer: harmless as shipped, fatal after optimization."""
    build = builder()
    halved = build.node("Mul", ["f32[2]", F(0.5)])
    scale = build.value(F(0.5))
    zero = build.value(U8(0))
    q = build.q(halved, f"={scale}", f"={zero}")
    build.node("Tanh", [f"={build.dq(f'={q}', f'={scale}', f'={zero}')}"])
    report = predict(build.model(), target="android")
    assert report.as_shipped.landmines == ()
    assert [mine.code for mine in report.landmines] == ["shared-scale"]
    assert not report.is_full


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weight(builder, tied):
    build = builder()
    table = build.value(np.ones((4, 4), F))
    rows = build.node("Gather", [f"={table}", "i32[2]"])
    build.node("MatMul", [f"={rows}", f"={table}" if tied else np.ones((4, 4), F)])
    assert codes(build) == (["tied-weight"] if tied else [])


def test_identity_from_input_to_output(builder):
    build = builder()
    other = build.node("Tanh", ["f32[2]"])
    same = build.node("Identity", ["f32[2]"])
    report = predict(build.model(other, same), target="android", optimized=False)
    assert [mine.code for mine in report.landmines] == ["identity-alias"]
    inside = builder()
    inside.node("Relu", [f"={inside.node('Identity', ['f32[2]'])}"])
    assert codes(inside) == []


@pytest.mark.parametrize(("shape", "expected"), [((1, 1, 2, 3), []), ((1, 1, 1, 2, 3), ["rank-above-4"])])
def test_rank_above_4(builder, shape, expected):
    build = builder()
    build.node("Tanh", [f"={build.node('Reshape', ['f32[2,3]', np.array(shape, I64)])}"])
    assert codes(build) == expected


@pytest.mark.parametrize(("level", "expected"), [(29, []), (28, ["built-level"])])
def test_leaky_relu_below_29(builder, level, expected):
    build = builder()
    build.node("LeakyRelu", ["f32[2]"])
    assert codes(build, api_level=level) == expected


def test_every_landmine_says_what_the_device_does_and_what_to_change(builder):
    report = predict(
        gemm(builder(), W, F(0.3), I8(0), with_q=False).model(), target="android", optimized=False
    )
    mine = report.landmines[0]
    assert mine.nodes == ("Gemm_2",)
    assert mine.device
    assert mine.fix
    assert report.to_json()["landmines"][0]["code"] == "gemm-without-q"


def test_bool_across_a_core_ml_border(builder):
    build = builder()
    both = build.node("And", ["b[2]", "b[2]"])
    build.node("Where", [f"={both}", "f32[2]", "f32[2]"])
    report = predict(build.model(), target="coreml", optimized=False)
    assert {mine.code for mine in report.landmines} == {"border-type"}
