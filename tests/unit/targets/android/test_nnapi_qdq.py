"""Per-tensor int8 with a per-channel Mul behind it: the error bound follows from the scales."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgeq.graph.passes.sequence import edited
from edgeq.targets.android.nnapi_qdq import GemmQDQ, channel_scale, quantize_gemms, quantize_tables
from edgeq.targets.android.scalars import separate_scalars
from edgeq.targets.placement.predict import predict

K, N, ROWS = 12, 6, 4


def value(name: str, data: np.ndarray) -> ir.Value:
    tensor = ir.tensor(data, name=name)
    return ir.Value(
        name=name, shape=ir.Shape(data.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )


def gemm_model(weight: np.ndarray, bias: np.ndarray | None) -> ir.Model:
    x = ir.Value(name="x", shape=ir.Shape([ROWS, K]), type=ir.TensorType(ir.DataType.FLOAT))
    constants = [value("w", weight)] + ([] if bias is None else [value("b", bias)])
    gemm = ir.node("Gemm", [x, *constants], name="linear")
    gemm.outputs[0].name = "product"
    tanh = ir.node("Tanh", gemm.outputs, name="tanh")
    output = tanh.outputs[0]
    output.name = "y"
    for made in (gemm.outputs[0], output):
        made.shape, made.type = ir.Shape([ROWS, N]), ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], [output], nodes=[gemm, tanh], initializers=constants, opset_imports={"": 17})
    return ir.Model(graph, ir_version=8)


def run(model: ir.Model, feeds: dict[str, np.ndarray], folder: Path) -> np.ndarray:
    ir.save(model, folder / "m.onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    return ort.InferenceSession(str(folder / "m.onnx"), options).run(None, feeds)[0]


def case(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    spread = np.geomspace(0.01, 1, N).astype(
        np.float32
    )  # columns a hundredfold apart: per-tensor alone would fail
    return (
        rng.uniform(-1, 1, (ROWS, K)).astype(np.float32),
        (rng.normal(size=(K, N)) * spread).astype(np.float32),
        (rng.normal(size=N) * spread).astype(np.float32),
    )


def item(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> GemmQDQ:
    y = x @ weight + (0 if bias is None else bias)
    return GemmQDQ("linear", (-1.0, 1.0), y.min(axis=0), y.max(axis=0))


def bound(x: np.ndarray, weight: np.ndarray, gemm: GemmQDQ, share: float) -> np.ndarray:
    """Half a step of input, of weight, of bias and of output, each in the units of its output channel."""
    c = channel_scale(weight, gemm.output_low, gemm.output_high, share)
    step_x, step_w = 2 / 255, np.abs(weight / c).max() / 127
    step_y = ((gemm.output_high / c).max() - (gemm.output_low / c).min()) / 255
    products = step_x / 2 * np.abs(weight / c).sum(axis=0) + step_w / 2 * (
        np.abs(x).sum(axis=1, keepdims=True) + K * step_x / 2
    )
    # The output grid was fitted to exact outputs; what quantization pushes beyond it saturates.
    return c * (2 * products + step_x * step_w + step_y) * 1.01


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_error_stays_within_the_steps(share: float, with_bias: bool, tmp_path: Path) -> None:
    x, weight, bias = case(0)
    model = gemm_model(weight, bias if with_bias else None)
    gemm = item(x, weight, bias if with_bias else None)
    exact = run(model, {"x": x}, tmp_path)
    found = run(edited(model.clone(), quantize_gemms([gemm], output_share=share)), {"x": x}, tmp_path)
    # tanh has slope at most one.
    assert (np.abs(found - exact) <= bound(x, weight, gemm, share)).all()


def test_one_scale_for_all_columns_breaks_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = case(0)
    gemm = item(x, weight, bias)
    exact = run(gemm_model(weight, bias), {"x": x}, tmp_path)
    allowed = bound(x, weight, gemm, 0.0)
    monkeypatch.setattr(
        "edgeq.targets.android.nnapi_qdq.channel_scale", lambda w, *_: np.ones(w.shape[1], np.float32)
    )
    found = run(edited(gemm_model(weight, bias), quantize_gemms([gemm])), {"x": x}, tmp_path)
    assert not (np.abs(found - exact) <= allowed).all()


def test_nnapi_takes_it_in_one_partition() -> None:
    x, weight, bias = case(1)
    report = predict(
        edited(gemm_model(weight, bias), quantize_gemms([item(x, weight, bias)])), target="android"
    )
    assert report.is_full and report.as_shipped.min_android_api == 29


def test_weights_are_int8_per_tensor_and_bias_int32() -> None:
    x, weight, bias = case(2)
    model = edited(gemm_model(weight, bias), quantize_gemms([item(x, weight, bias)]))
    constants = {name: v.const_value for name, v in model.graph.initializers.items()}
    assert constants["linear.weight.quantized"].dtype == ir.DataType.INT8
    assert constants["linear.weight.scale"].size == 1
    assert constants["linear.bias.quantized"].dtype == ir.DataType.INT32
    expected = constants["x.scale"].numpy() * constants["linear.weight.scale"].numpy()
    assert constants["linear.bias.scale"].numpy() == pytest.approx(expected, rel=1e-6)


def test_channel_scale_is_neutral_for_equal_channels() -> None:
    weight = np.ones((K, N), np.float32)
    assert np.allclose(channel_scale(weight, -np.ones(N, np.float32), np.ones(N, np.float32), 0.5), 1)


def test_dead_channels_keep_finite_scales() -> None:
    weight = np.ones((K, N), np.float32)
    weight[:, 0] = 0
    low = -np.ones(N, np.float32)
    low[0] = 0
    scale = channel_scale(weight, low, -low, 0.5)
    assert np.isfinite(scale).all() and (scale > 0).all()


def test_tables_are_uint8_with_even_columns(tmp_path: Path) -> None:
    table = np.random.default_rng(3).normal(size=(70, 5)).astype(np.float32) * np.geomspace(
        0.01, 1, 5
    ).astype(np.float32)
    ids = ir.Value(name="ids", shape=ir.Shape([1, 3]), type=ir.TensorType(ir.DataType.INT32))
    data = value("table", table)
    gather = ir.node("Gather", [ids, ids], {"axis": 0}, name="lookup")
    gather.replace_input_with(0, data)
    output = gather.outputs[0]
    output.name, output.shape, output.type = "rows", ir.Shape([1, 3, 5]), ir.TensorType(ir.DataType.FLOAT)
    model = ir.Model(
        ir.Graph([ids], [output], nodes=[gather], initializers=[data], opset_imports={"": 17}), ir_version=8
    )
    quantize_tables(["lookup"])(model)
    feeds = {"ids": np.array([[0, 40, 69]], np.int32)}
    found = run(model, feeds, tmp_path)
    # Half a step of each column's own even share of the table-wide grid: 1.5 covers the asymmetric range.
    steps = 1.5 * np.abs(table).max(axis=0) / 127
    assert (np.abs(found - table[feeds["ids"]]) <= steps / 2 * 1.5).all()
    assert model.graph.initializers["lookup.table.quantized"].const_value.dtype == ir.DataType.UINT8


def test_scales_never_equal_another_scalar() -> None:
    """ONNX Runtime merges equal scalars; a scale that is also an operand is landmine L6."""
    x, weight, bias = case(1)
    model = edited(gemm_model(weight, bias), quantize_gemms([item(x, weight, bias)]))
    scale = model.graph.initializers["x.scale"].const_value.numpy()
    twin = value("twin", np.asarray(scale).reshape(1))
    model.graph.register_initializer(twin)
    tanh = next(node for node in model.graph if node.op_type == "Tanh")
    product = ir.node("Mul", [tanh.inputs[0], twin], name="product_with_twin")
    product.outputs[0].name = "twinned"
    tanh.replace_input_with(0, product.outputs[0])
    model.graph.insert_before(tanh, product)
    separate_scalars()(model)
    moved = model.graph.initializers["x.scale"].const_value.numpy()
    assert moved != scale and moved == pytest.approx(scale, rel=1e-6)
