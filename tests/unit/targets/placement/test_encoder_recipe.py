"""An encoder written the one-partition way stays one partition, before and after level-1 optimization."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeq.targets.placement import predict

S, D, H, F, VOCAB = 8, 16, 2, 32, 50
DH = D // H


class Graph:
    """Appends nodes and constants; every constant gets its own name and its own value."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def const(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def weight(self, *shape: int) -> str:
        return self.const(self.rng.normal(size=shape).astype(np.float32))

    def op(self, op_type: str, *inputs: str, **attributes: object) -> str:
        name = f"{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [f"{name}_out"], name, **attributes))
        return f"{name}_out"

    def scalar(self, value: float) -> str:
        return self.const(np.array([value], np.float32))

    def shape(self, *dims: int) -> str:
        return self.const(np.array(dims, np.int64))

    def scale(self) -> str:
        return self.const(np.float32(self.rng.uniform(0.01, 0.1)))

    def model(self, output: str, shape: list[int]) -> onnx.ModelProto:
        inputs = [
            helper.make_tensor_value_info("input_ids", TensorProto.INT32, [1, S]),
            helper.make_tensor_value_info("attention_mask", TensorProto.FLOAT, [1, S]),
        ]
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)]
        graph = helper.make_graph(self.nodes, "encoder", inputs, outputs, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class FloatGraph(Graph):
    def gemm(self, x: str, rows: int, columns: int) -> str:
        return self.op("Gemm", x, self.weight(rows, columns), self.weight(columns))


class QuantizedGraph(Graph):
    """Gemms as QDQ groups, everything else in float."""

    def gemm(self, x: str, rows: int, columns: int) -> str:
        bias = self.const(self.rng.integers(-99, 99, columns, dtype=np.int32))
        weight = self.const(self.rng.integers(-127, 127, (rows, columns), dtype=np.int8))
        y = self.op(
            "Gemm",
            self.u8(x),
            self.op("DequantizeLinear", weight, self.scale(), self.const(np.int8(0))),
            self.op("DequantizeLinear", bias, self.scale(), self.const(np.int32(0))),
        )
        return self.u8(y)

    def u8(self, x: str) -> str:
        scale, zero = self.scale(), self.const(np.uint8(self.rng.integers(100, 150)))
        return self.op("DequantizeLinear", self.op("QuantizeLinear", x, scale, zero), scale, zero)


def layer_norm(g: Graph, x: str, *, pow_square: bool = False) -> str:
    axes = {"axes": [-1], "keepdims": 1}
    d = g.op("Sub", x, g.op("ReduceMean", x, **axes))
    square = g.op("Pow", d, g.scalar(2.0)) if pow_square else g.op("Mul", d, d)
    deviation = g.op("Sqrt", g.op("Add", g.op("ReduceMean", square, **axes), g.scalar(1e-12)))
    return g.op("Add", g.op("Mul", g.op("Div", d, deviation), g.weight(D)), g.weight(D))


def gelu(g: Graph, x: str) -> str:
    h = g.op("Mul", x, g.scalar(0.5))
    inner = g.op("Add", g.op("Mul", g.op("Mul", h, h), g.scalar(0.2854)), g.scalar(1.5958))
    return g.op("Mul", h, g.op("Add", g.op("Tanh", g.op("Mul", inner, h)), g.scalar(1.0)))


def heads(g: Graph, x: str, perm: list[int]) -> str:
    return g.op("Transpose", g.op("Reshape", x, g.shape(1, S, H, DH)), perm=perm)


def encoder(g: Graph, *, pow_square: bool = False, squeeze: bool = False) -> onnx.ModelProto:
    x = g.op("Add", g.op("Gather", g.weight(VOCAB, D), "input_ids"), g.weight(1, S, D))
    x = layer_norm(g, g.op("Reshape", x, g.shape(S, D)), pow_square=pow_square)
    mask = g.op("Reshape", "attention_mask", g.shape(1, 1, 1, S))
    bias = g.op("Mul", g.op("Sub", mask, g.scalar(1.0)), g.scalar(1e4))
    for _ in range(2):
        q, k, v = (g.gemm(x, D, D) for _ in range(3))
        scores = g.op("MatMul", heads(g, q, [0, 2, 1, 3]), heads(g, k, [0, 2, 3, 1]))
        weights = g.op("Softmax", g.op("Add", scores, bias), axis=-1)
        context = g.op("MatMul", weights, heads(g, v, [0, 2, 1, 3]))
        merged = g.op("Reshape", g.op("Transpose", context, perm=[0, 2, 1, 3]), g.shape(S, D))
        x = layer_norm(g, g.op("Add", x, g.gemm(merged, D, D)), pow_square=pow_square)
        hidden = gelu(g, g.gemm(x, D, F))
        x = layer_norm(g, g.op("Add", x, g.gemm(hidden, F, D)), pow_square=pow_square)
    if squeeze:
        x = g.op("LpNormalization", x, axis=-1)
    return g.model(pool(g, x), [1, D])


def pool(g: Graph, x: str) -> str:
    x3 = g.op("Reshape", x, g.shape(1, S, D))
    mask = g.op("Reshape", "attention_mask", g.shape(1, S, 1))
    mean = g.op("ReduceMean", g.op("Mul", x3, mask), axes=[1], keepdims=0)
    count = g.op("Max", g.op("ReduceMean", mask, axes=[1], keepdims=0), g.scalar(1e-9))
    return g.op("Div", mean, count)


@pytest.mark.parametrize("graph", [FloatGraph(), QuantizedGraph()], ids=["fp32", "int8"])
def test_recipe_is_one_partition_before_and_after_level_1(graph):
    model = encoder(graph)
    report = predict(model, target="android")
    assert report.optimized is not None, report.optimized_skipped
    for form in (report.as_shipped, report.optimized):
        assert (form.partitions, form.taken) == (1, form.nodes), form.reasons()
        assert form.landmines == ()
        assert form.min_android_api == 29
    assert report.as_shipped.nodes == len(model.graph.node)
    assert report.is_full
    assert report.to_json()["full"] is True


def test_int8_recipe_forms_a_group_per_gemm():
    report = predict(encoder(QuantizedGraph()), target="android", optimized=False).as_shipped
    # 12 Gemms, each swallows 3 DQ and 1 Q: 4 nodes fewer.
    assert report.nodes - report.units == 12 * 4


def test_fp32_recipe_is_also_one_core_ml_partition():
    report = predict(encoder(FloatGraph()), target="coreml")
    assert report.as_shipped.is_full, report.as_shipped.reasons()
    assert report.is_full


def test_pow_in_layer_norm_is_fused_by_level_1_and_cuts_the_graph():
    report = predict(encoder(FloatGraph(), pow_square=True), target="android")
    assert report.as_shipped.is_full
    assert report.optimized is not None
    assert report.optimized.partitions > 1
    assert "LayerNormalization has no NNAPI implementation" in {r.reason for r in report.optimized.refused}
    assert not report.is_full


def test_one_foreign_operator_cuts_the_graph_in_two():
    report = predict(encoder(FloatGraph(), squeeze=True), target="android", optimized=False)
    assert report.partitions == 2
    assert [r.op for r in report.refused] == ["LpNormalization"]


def test_onnx_ir_model_gives_the_same_report():
    ir = pytest.importorskip("onnx_ir")
    model = encoder(FloatGraph())
    assert predict(ir.from_proto(model), target="android", optimized=False) == predict(
        model, target="android", optimized=False
    )
