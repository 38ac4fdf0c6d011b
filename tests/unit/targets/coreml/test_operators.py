"""Every lowered operator: the package, run by the interpreter, against ONNX Runtime on the same graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgeq.errors import UnsupportedError
from edgeq.targets import get_target
from edgeq.targets.coreml.operators import LOWERINGS

RNG = np.random.default_rng(0)
X = RNG.standard_normal((1, 4, 6)).astype(np.float32)
Y = RNG.standard_normal((1, 4, 6)).astype(np.float32)
POSITIVE = np.abs(X) + np.float32(0.1)
IDS = RNG.integers(0, 5, (1, 4))
MASK = np.array([[1, 1, 0, 1]])
I64 = np.int64


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def f32(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


# operator, attributes, run-time inputs, constants (by position after the inputs)
Case = tuple[str, dict[str, Any], list[np.ndarray], list[np.ndarray]]
CASES: list[Case] = [
    *[
        (op, {}, [X], [])
        for op in ("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Neg", "Relu", "Round", "Sigmoid")
    ],
    *[(op, {}, [X], []) for op in ("Sign", "Sin", "Softplus", "Tan", "Tanh", "Identity", "HardSwish")],
    *[(op, {}, [POSITIVE], []) for op in ("Log", "Reciprocal", "Sqrt")],
    *[(op, {}, [X, Y], []) for op in ("Add", "Div", "Mul", "Sub", "Max", "Min", "Sum")],
    *[(op, {}, [X, Y[:, :1]], []) for op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")],
    ("Gelu", {}, [X], []),
    ("Gelu", {"approximate": "tanh"}, [X], []),
    ("Pow", {}, [POSITIVE], [np.float32(1.5)]),
    ("LeakyRelu", {"alpha": 0.2}, [X], []),
    ("Elu", {"alpha": 0.7}, [X], []),
    ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}, [X], []),
    ("Clip", {}, [X], [np.float32(-0.5), np.float32(0.5)]),
    ("Clip", {}, [X], [np.float32(-0.5)]),
    ("Cast", {"to": 1}, [MASK], []),
    ("Cast", {"to": 7}, [X * 3], []),
    ("Mod", {}, [IDS], [ints(3)]),
    ("Div", {}, [IDS - 3], [ints(2)]),
    ("Softmax", {"axis": -1}, [X], []),
    ("Softmax", {"axis": 1}, [X * 30], []),
    ("LogSoftmax", {"axis": -1}, [X], []),
    ("LayerNormalization", {"axis": -1, "epsilon": 1e-5}, [X], [f32(6), f32(6)]),
    ("LayerNormalization", {"axis": 1, "epsilon": 1e-5}, [X], [f32(4, 6)]),
    ("BatchNormalization", {"epsilon": 1e-3}, [X], [f32(4), f32(4), f32(4), np.abs(f32(4))]),
    *[
        (f"Reduce{op}", {"keepdims": 1}, [X], [ints(-1)])
        for op in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2")
    ],
    *[(f"Reduce{op}", {"keepdims": 0}, [X], [ints(1, 2)]) for op in ("Sum", "LogSumExp", "SumSquare")],
    ("ReduceMean", {"keepdims": 0}, [X], []),
    ("ArgMax", {"axis": -1, "keepdims": 0}, [X], []),
    ("ArgMin", {"axis": 1}, [X], []),
    ("Reshape", {}, [X], [ints(0, -1, 3)]),
    ("Transpose", {"perm": [2, 0, 1]}, [X], []),
    ("Transpose", {}, [X], []),
    ("Unsqueeze", {}, [X], [ints(0, -1)]),
    ("Squeeze", {}, [X], [ints(0)]),
    ("Squeeze", {}, [X], []),
    ("Flatten", {"axis": 2}, [X], []),
    ("Concat", {"axis": -1}, [X, Y], []),
    ("Split", {"axis": -1, "num_outputs": 2}, [X], []),
    ("Slice", {}, [X], [ints(1), ints(2**62), ints(1), ints(2)]),
    ("Slice", {}, [X], [ints(0, -3), ints(2, -1), ints(1, 2)]),
    ("Gather", {"axis": 1}, [X], [np.array(0, I64)]),
    ("Gather", {"axis": -1}, [X], [np.array([[5, -1], [0, 2]], I64)]),
    ("GatherElements", {"axis": 1}, [X], [RNG.integers(0, 4, (1, 2, 6))]),
    ("GatherND", {}, [X], [np.array([[0, 1], [0, 3]], I64)]),
    ("Expand", {}, [X[:, :1]], [ints(1, 4, 6)]),
    ("Expand", {}, [X], [ints(2, 1, 1, 1)]),
    ("Tile", {}, [X], [ints(1, 2, 3)]),
    ("Pad", {"mode": "constant"}, [X], [ints(0, 1, 0, 0, 2, 1), np.float32(0.5)]),
    ("Trilu", {"upper": 0}, [X], [np.array(1, I64)]),
    ("CumSum", {"exclusive": 1, "reverse": 1}, [X], [np.array(1, I64)]),
    ("CumSum", {}, [MASK], [np.array(1, I64)]),
    ("MatMul", {}, [X], [f32(6, 5)]),
    ("MatMul", {}, [X[None]], [f32(6, 5)]),
    ("MatMul", {}, [X, np.ascontiguousarray(Y.transpose(0, 2, 1))], []),
    ("Gemm", {"alpha": 0.5, "beta": 2.0, "transB": 1}, [X[0]], [f32(5, 6), f32(5)]),
    ("Conv", {"strides": [2], "pads": [1, 2], "dilations": [1]}, [X], [f32(3, 4, 3), f32(3)]),
    ("Conv", {"group": 2}, [X], [f32(4, 2, 2)]),
]
INDIRECT = {"And", "Or", "Xor", "Not", "Where", "Dropout", "RMSNormalization"}
"""Boolean operators need producers, and are tested below; the others need another opset or attributes."""


def run_onnx(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def build(graph: Any, case: Case) -> tuple[ir.Model, dict[str, np.ndarray]]:
    op, attributes, inputs, constants = case
    feeds = {f"in{i}": array for i, array in enumerate(inputs)}
    weights = {f"w{i}": np.asarray(array) for i, array in enumerate(constants)}
    outputs = [f"out{i}" for i in range(attributes.get("num_outputs", 1))]
    node = onnx.helper.make_node(op, [*feeds, *weights], outputs, name="node", **attributes)
    model = graph([node], {name: (str(a.dtype), a.shape) for name, a in feeds.items()}, outputs, weights)
    return model, feeds


@pytest.mark.parametrize("case", CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)])
def test_operator_matches_onnx_runtime(graph: Any, lower: Any, case: Case) -> None:
    model, feeds = build(graph, case)
    interpreter, _ = lower(model)
    found = interpreter.run(feeds)
    for value, expected in zip(found.values(), run_onnx(model, feeds), strict=True):
        assert value.shape == expected.shape
        # float32 on both sides, sums of at most 24 terms: a few units in the last place.
        np.testing.assert_allclose(
            value.astype(np.float64), expected.astype(np.float64), rtol=2e-5, atol=2e-6
        )


def test_every_lowering_is_covered() -> None:
    assert set(LOWERINGS) == {case[0] for case in CASES} | INDIRECT


def test_a_wrong_attribute_would_show(graph: Any, lower: Any) -> None:
    model, feeds = build(graph, ("Softmax", {"axis": 1}, [X], []))
    other, _ = build(graph, ("Softmax", {"axis": -1}, [X], []))
    interpreter, _ = lower(model)
    assert np.abs(interpreter.run(feeds)["out0"] - run_onnx(other, feeds)[0]).max() > 0.1


def test_booleans_and_where(graph: Any, lower: Any) -> None:
    node = onnx.helper.make_node
    nodes = [
        node("Greater", ["x", "y"], ["a"]),
        node("Less", ["x", "zero"], ["b"]),
        node("And", ["a", "b"], ["c"]),
        node("Or", ["c", "b"], ["d"]),
        node("Xor", ["d", "a"], ["e"]),
        node("Not", ["e"], ["f"]),
        node("Equal", ["f", "a"], ["g"]),
        node("Dropout", ["x"], ["h"]),
        node("Where", ["g", "h", "y"], ["out"]),
    ]
    shapes = {"x": ("float32", X.shape), "y": ("float32", Y.shape)}
    model = graph(nodes, shapes, ["out"], {"zero": np.zeros((), np.float32)})
    interpreter, _ = lower(model)
    np.testing.assert_array_equal(
        interpreter.run({"x": X, "y": Y})["out"], run_onnx(model, {"x": X, "y": Y})[0]
    )


def test_rms_normalization(graph: Any, lower: Any) -> None:
    gamma = f32(6)
    node = onnx.helper.make_node("RMSNormalization", ["x", "g"], ["out"], axis=-1, epsilon=1e-5)
    model = graph([node], {"x": ("float32", X.shape)}, ["out"], {"g": gamma}, opset=23)
    interpreter, _ = lower(model)
    expected = X / np.sqrt((X * X).mean(-1, keepdims=True) + 1e-5) * gamma
    np.testing.assert_allclose(interpreter.run({"x": X})["out"], expected, rtol=1e-5, atol=1e-6)


def test_every_unknown_operator_is_named_before_the_work(graph: Any) -> None:
    make = onnx.helper.make_node
    nodes = [
        make("Shape", ["x"], ["shape"], name="measured"),
        make("Asinh", ["w"], ["folded"], name="of_a_constant"),
        make("Celu", ["x"], ["a"], name="odd_one"),
        make("Asinh", ["a"], ["b"], name="first"),
        make("Asinh", ["b"], ["c"], name="second"),
        make("Gelu", ["c"], ["out"], name="foreign"),
    ]
    model = graph(nodes, {"x": ("float32", X.shape)}, ["out"], {"w": np.ones(3, np.float32)})
    model.graph[-1].domain = "com.microsoft"
    with pytest.raises(UnsupportedError) as caught:
        get_target("coreml").check_graph(model)
    assert str(caught.value) == (
        "no Core ML lowering for operator `Celu` at `odd_one`, operator `Asinh` at `first` and 1 more, "
        "operator `Gelu` of `com.microsoft` at `foreign`"
    )


def test_unknown_operator_is_refused_by_name(graph: Any, lower: Any) -> None:
    node = onnx.helper.make_node("Celu", ["x"], ["out"], name="odd_one")
    model = graph([node], {"x": ("float32", X.shape)}, ["out"])
    with pytest.raises(
        UnsupportedError, match=r"no Core ML lowering for operator `Celu` at `odd_one`$"
    ) as caught:
        lower(model)
    assert caught.value.hint == "the nearest operator to Celu there is: Relu"


@pytest.mark.parametrize(
    ("op", "attributes", "constants"),
    [
        ("Pad", {"mode": "reflect"}, [ints(0, 1, 0, 0, 1, 0)]),
        ("ArgMax", {"axis": 1, "select_last_index": 1}, []),
        ("Slice", {}, [ints(3), ints(0), ints(1), ints(-1)]),
    ],
)
def test_unsupported_attributes_are_refused(
    graph: Any, lower: Any, op: str, attributes: dict[str, Any], constants: list[np.ndarray]
) -> None:
    model, _ = build(graph, (op, attributes, [X], constants))
    with pytest.raises(UnsupportedError, match="at `node`"):
        lower(model)
