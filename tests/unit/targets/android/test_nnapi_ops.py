"""Each rewrite computes what the operator computed, in operators NNAPI takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeq.errors import UnsupportedError
from edgeq.graph.passes.sequence import edited
from edgeq.targets.android.nnapi_ops import REWRITES, rewrite_operators
from edgeq.targets.placement.predict import predict

X = np.random.default_rng(0).normal(size=(1, 6, 8)).astype(np.float32)


def model_of(
    op: str,
    constants: dict[str, np.ndarray],
    outputs: int = 1,
    shape: tuple[int, ...] = X.shape,
    **attributes: Any,
) -> ir.Model:
    names = [f"y{index}" for index in range(outputs)]
    node = helper.make_node(op, ["x", *constants], names, name="op", **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
        [numpy_helper.from_array(data, name) for name, data in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(proto))


def run(model: ir.Model, x: np.ndarray, folder: Path, opset: int = 20) -> list[np.ndarray]:
    model.opset_imports[""] = opset
    ir.save(model, folder / "model.onnx")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(str(folder / "model.onnx"), options).run(None, {"x": x})


F32 = np.float32
I64 = np.int64
CASES = {
    "LayerNormalization": (
        {"g": np.linspace(0.5, 2, 8, dtype=F32), "b": np.ones(8, F32)},
        {"axis": -1, "epsilon": 1e-5},
        1e-5,
    ),
    # The tanh form differs from the exact GELU by at most 5e-4 (Hendrycks and Gimpel's approximation).
    "Gelu": ({}, {}, 5e-4),
    "ReduceSum": ({"axes": np.array([1], I64)}, {"keepdims": 0}, 1e-5),
    "ReduceMean": ({"axes": np.array([-1], I64)}, {"keepdims": 1}, 1e-6),
    "ReduceL2": ({"axes": np.array([2], I64)}, {"keepdims": 1}, 1e-5),
    "Clip": ({"low": np.float32(0.25)}, {}, 0),
    "Expand": ({"shape": np.array([2, 6, 8], I64)}, {}, 0),
    "Unsqueeze": ({"axes": np.array([1], I64)}, {}, 0),
    "Squeeze": ({"axes": np.array([0], I64)}, {}, 0),
    "Flatten": ({}, {"axis": 1}, 0),
    "Gather": ({"index": np.array(2, I64)}, {"axis": 1}, 0),
    "Softmax": ({}, {}, 0),
    "Pow": ({"two": np.float32(2)}, {}, 1e-6),
    "Reciprocal": ({}, {}, 1e-6),
    "MatMul": ({"b": np.ones((8, 3), F32)}, {}, 1e-5),
}


@pytest.mark.parametrize("op", CASES)
def test_the_rewrite_computes_the_same(op: str, tmp_path: Path) -> None:
    constants, attributes, tolerance = CASES[op]
    model = model_of(op, constants, **attributes)
    [expected] = run(model.clone(), X, tmp_path)
    rewritten = edited(model, rewrite_operators())
    # Opset 17 proves that no operator of a later form is left.
    [found] = run(rewritten, X, tmp_path, opset=17)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * max(1.0, np.abs(expected).max())


def test_split_takes_its_opset_13_form(tmp_path: Path) -> None:
    model = model_of("Split", {}, outputs=2, axis=-1, num_outputs=2)
    expected = run(model.clone(), X, tmp_path)
    for a, b in zip(run(edited(model, rewrite_operators()), X, tmp_path, opset=17), expected, strict=True):
        assert np.array_equal(a, b)


def test_every_rewrite_is_tested() -> None:
    assert set(REWRITES) == {*CASES, "Split"}


@pytest.mark.parametrize(
    "op", ["LayerNormalization", "Gelu", "ReduceSum", "ReduceL2", "Clip", "Softmax", "Pow"]
)
def test_nnapi_takes_the_rewrite(op: str) -> None:
    constants, attributes, _ = CASES[op]
    model = edited(model_of(op, constants, **attributes), rewrite_operators())
    model.opset_imports[""] = 17
    found = predict(model, target="android").optimized
    assert found is not None and found.reasons() == {}


@pytest.mark.parametrize("op", ["LayerNormalization", "Gelu", "ReduceSum", "ReduceL2"])
def test_nnapi_refuses_the_original(op: str) -> None:
    constants, attributes, _ = CASES[op]
    assert predict(model_of(op, constants, **attributes), target="android").as_shipped.reasons()


def test_gelu_is_compared_strictly_enough_to_notice_another_activation(tmp_path: Path) -> None:
    [gelu] = run(model_of("Gelu", {}), X, tmp_path)
    assert np.abs(gelu - X / (1 + np.exp(-1.702 * X))).max() > 5e-4


def test_normalization_over_other_axes_is_refused() -> None:
    model = model_of("LayerNormalization", {"g": np.ones((6, 8), F32)}, axis=1)
    with pytest.raises(UnsupportedError, match="over axis 1"):
        edited(model, rewrite_operators())
