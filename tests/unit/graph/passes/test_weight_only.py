"""The weight-only pass: numbers through onnxruntime, sharing, read-back, refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeq.errors import ModelError, UnsupportedError
from edgeq.graph.passes.sequence import edited
from edgeq.graph.passes.weight_only import lowered_nodes, verify_weight_only
from edgeq.quantize import weight_only as wo
from edgeq.quantize.formats import Blocks
from edgeq.quantize.weight_only.matmul_nbits import lower, storage_block_size, to_block_weight
from edgeq.quantize.weight_only.quantized_weight import LayerStats

RNG = np.random.default_rng(0)
# int8 inputs (accuracy level 4): each product is off by half a step of absmax/127, relative to the output's
# norm about 1/127/sqrt(3) of the block's peak-to-rms ratio (3 to 4).
INT8_INPUTS = 0.02


def model_of(nodes, initializers, inputs, outputs):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        [numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return ir.serde.deserialize_model(proto)


def linear(k=44, n=24):
    weight = RNG.normal(0, 0.05, (k, n)).astype(np.float32)
    bias = RNG.normal(0, 0.05, n).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], "fc"),
        helper.make_node("Add", ["p", "b"], ["y"], "add"),
    ]
    inputs, outputs = [("x", TensorProto.FLOAT, ["rows", k])], [("y", ["rows", n])]
    return model_of(nodes, {"w": weight, "b": bias}, inputs, outputs), weight, bias


def run(model, tmp_path, **feeds):
    import onnxruntime as ort

    path = tmp_path / "m.onnx"
    ir.save(model, path)
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds)


def at_level_zero(lowering):
    """The same graph computed in float: 4-bit weights dequantize exactly, whatever the CPU."""
    for node in lowering.graph:
        if node.op_type == "MatMulNBits":
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 0)
    return lowering


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [16, 32, -1])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("k", [64, 44])
def test_matmul_computes_with_the_dequantized_weight(bits, block, symmetric, k, tmp_path):
    model, weight, bias = linear(k)
    quantized = wo.quantize("rtn", weight, Blocks(bits, block, symmetric))
    lowering = edited(model, lower({"w": quantized}))
    x = RNG.normal(size=(5, k)).astype(np.float32)
    exact = x @ quantized.dequantize() + bias
    assert relative(run(lowering, tmp_path, x=x)[0], exact) < INT8_INPUTS
    verify_weight_only(tmp_path / "m.onnx", lowered_nodes(lowering))
    # Float compute: float32 sums of k terms.
    assert relative(run(at_level_zero(lowering), tmp_path, x=x)[0], exact) < 1e-5
    other = x @ weight + bias
    if bits == 4:
        assert relative(run(lowering, tmp_path, x=x)[0], other) > INT8_INPUTS, "the check can fail"


def test_golden_bytes():
    """Codes 0..15 and 8s: low nibble first, one row per output, zero points packed the same way."""
    weight = np.zeros((32, 1), np.float32)
    weight[:16, 0] = np.arange(16) - 8
    weight[16:, 0] = 4
    spec = Blocks(4, 16, symmetric=False)
    stored = to_block_weight(wo.quantize("rtn", weight, spec))
    assert stored.data.shape == (1, 2, 8)
    assert stored.data[0, 0].tolist() == [0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE]
    assert stored.data[0, 1].tolist() == [0xFF] * 8
    assert stored.zero_points.tolist() == [[0x08]]
    assert stored.scales.dtype == np.float16
    assert stored.scales.tolist() == [[1.0, float(np.float16(4 / 15))]]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("k", [64, 44])
def test_embedding_lookup_is_exact(bits, symmetric, k, tmp_path):
    table = RNG.normal(0, 0.05, (20, k)).astype(np.float32)
    model = model_of(
        [helper.make_node("Gather", ["table", "ids"], ["y"], "embed")],
        {"table": table},
        [("ids", TensorProto.INT64, ["rows", "length"])],
        [("y", ["rows", "length", k])],
    )
    quantized = wo.quantize("scale_search", table.T, Blocks(bits, 16, symmetric))
    lowering = edited(model, lower({"table": quantized}))
    ids = RNG.integers(0, 20, (2, 7))
    np.testing.assert_allclose(run(lowering, tmp_path, ids=ids)[0], quantized.dequantize().T[ids], rtol=1e-6)
    verify_weight_only(tmp_path / "m.onnx", lowered_nodes(lowering))
    assert {node.op_type for node in lowered_nodes(lowering)} == {"GatherBlockQuantized"}


@pytest.mark.parametrize("form", ["transpose", "gemm"])
def test_tied_head_is_stored_once(form, tmp_path):
    k, rows = 64, 40
    table = RNG.normal(0, 0.05, (rows, k)).astype(np.float32)
    head = (
        [helper.make_node("Gemm", ["h", "table"], ["y"], "head", transB=1)]
        if form == "gemm"
        else [
            helper.make_node("Transpose", ["table"], ["t"], "flip", perm=[1, 0]),
            helper.make_node("MatMul", ["h", "t"], ["y"], "head"),
        ]
    )
    model = model_of(
        [helper.make_node("Gather", ["table", "ids"], ["h"], "embed"), *head],
        {"table": table},
        [("ids", TensorProto.INT64, ["n"])],
        [("y", ["n", rows])],
    )
    quantized = wo.quantize("rtn", table.T, Blocks(4, 32))
    lowering = edited(model, lower({"table": quantized}))
    ids = np.arange(7)
    values = quantized.dequantize()
    assert relative(run(lowering, tmp_path, ids=ids)[0], values.T[ids] @ values) < INT8_INPUTS
    verify_weight_only(tmp_path / "m.onnx", lowered_nodes(lowering))
    assert {node.op_type for node in lowered_nodes(lowering)} == {"GatherBlockQuantized", "MatMulNBits"}
    stored = onnx.load(tmp_path / "m.onnx").graph.initializer
    assert sum(tensor.name.endswith("_q4") for tensor in stored) == 1
    total = sum(numpy_helper.to_array(tensor).nbytes for tensor in stored)
    assert total < rows * k / 2 * 1.2 + 64


def test_gemm_keeps_its_bias(tmp_path):
    weight = RNG.normal(0, 0.05, (24, 64)).astype(np.float32)
    bias = RNG.normal(size=24).astype(np.float32)
    model = model_of(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], "fc", transB=1)],
        {"w": weight, "b": bias},
        [("x", TensorProto.FLOAT, ["rows", 64])],
        [("y", ["rows", 24])],
    )
    quantized = wo.quantize("rtn", weight.T, Blocks(8, 32))
    lowering = edited(model, lower({"fc": quantized}))
    x = RNG.normal(size=(3, 64)).astype(np.float32)
    found = run(lowering, tmp_path, x=x)[0]
    assert relative(found, x @ quantized.dequantize() + bias) < INT8_INPUTS
    assert [node.op_type for node in lowering.graph] == ["Cast", "MatMulNBits", "Add"]


def test_awq_divides_the_shared_input_once(tmp_path):
    k = 64
    x = RNG.normal(size=(300, k)).astype(np.float32) * RNG.lognormal(0, 1.5, k).astype(np.float32)
    stats = LayerStats((x**2).mean(0), 300, x.T @ x)
    weights = {name: RNG.normal(0, 0.05, (k, 16)).astype(np.float32) for name in ("q", "v")}
    model = model_of(
        [
            helper.make_node("MatMul", ["x", "q"], ["a"], "q_proj"),
            helper.make_node("MatMul", ["x", "v"], ["c"], "v_proj"),
            helper.make_node("Add", ["a", "c"], ["y"], "add"),
        ],
        weights,
        [("x", TensorProto.FLOAT, ["rows", k])],
        [("y", ["rows", 16])],
    )
    from edgeq.quantize.weight_only import awq

    spec = Blocks(4, 32)
    scales = awq.search_input_scales(list(weights.values()), spec, stats)
    quantized = {name: awq.quantize_scaled(weight, spec, stats, scales) for name, weight in weights.items()}
    lowering = edited(model, lower(quantized))
    assert sum(node.op_type == "Mul" for node in lowering.graph) == 1
    exact = x @ (quantized["q"].dequantize() + quantized["v"].dequantize())
    assert relative(run(lowering, tmp_path, x=x)[0], exact) < INT8_INPUTS


def test_the_input_graph_is_left_alone_and_nothing_unused_stays(tmp_path):
    model, weight, _ = linear()
    lowering = edited(model, lower({"w": wo.quantize("rtn", weight, Blocks())}))
    assert [node.op_type for node in model.graph] == ["MatMul", "Add"]
    assert "w" not in lowering.graph.initializers
    assert [node.name for node in lowered_nodes(lowering)] == ["fc"]


def test_scales_are_stored_in_float16_and_folded_at_load(tmp_path):
    import onnxruntime as ort

    model, weight, _ = linear(64)
    lowering = edited(model, lower({"w": wo.quantize("rtn", weight, Blocks())}))
    ir.save(lowering, tmp_path / "m.onnx")
    stored = {t.name: t.data_type for t in onnx.load(tmp_path / "m.onnx").graph.initializer}
    assert stored["w_scales"] == TensorProto.FLOAT16
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(tmp_path / "m.onnx", options, providers=["CPUExecutionProvider"])
    assert "Cast" not in [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]


@pytest.mark.parametrize(
    ("field", "value"),
    [("bits", 8), ("block_size", 16), ("symmetric", False), ("in_features", 60), ("name", "gone")],
)
def test_read_back_finds_every_difference(field, value, tmp_path):
    model, weight, _ = linear(64)
    lowering = edited(model, lower({"w": wo.quantize("rtn", weight, Blocks())}))
    ir.save(lowering, tmp_path / "m.onnx")
    verify_weight_only(tmp_path / "m.onnx", lowered_nodes(lowering))
    wrong = replace(lowered_nodes(lowering)[0], **{field: value})
    with pytest.raises(ModelError, match=r"m\.onnx"):
        verify_weight_only(tmp_path / "m.onnx", [wrong])


def _drop_level(node, model):
    del node.attribute[[a.name for a in node.attribute].index("accuracy_level")]


def _add_g_idx(node, model):
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(64, np.int32), "g"))
    node.input.extend(["", "g"])


def _float_zero_points(node, model):
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((24, 2), np.float32), "z"))
    node.input.append("z")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(_drop_level, "accuracy level"), (_add_g_idx, "g_idx"), (_float_zero_points, "zero points")],
)
def test_read_back_refuses_slow_forms(spoil, message, tmp_path):
    model, weight, _ = linear(64)
    lowering = edited(model, lower({"w": wo.quantize("rtn", weight, Blocks(8, 32))}))
    proto = ir.serde.serialize_model(lowering)
    spoil(next(node for node in proto.graph.node if node.op_type == "MatMulNBits"), proto)
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=message):
        verify_weight_only(tmp_path / "m.onnx", [])


def test_bad_names_and_shapes():
    model, weight, _ = linear(64)
    quantized = wo.quantize("rtn", weight, Blocks())
    with pytest.raises(ModelError, match="nothing"):
        edited(model, lower({"nothing": quantized}))
    with pytest.raises(UnsupportedError, match="`b`"):
        edited(model, lower({"b": quantized}))
    with pytest.raises(ModelError, match=r"\[64, 24\]"):
        edited(model, lower({"w": wo.quantize("rtn", weight.T, Blocks())}))


def test_a_lookup_of_an_odd_number_of_nibbles_is_refused():
    table = RNG.normal(size=(20, 45)).astype(np.float32)
    model = model_of(
        [helper.make_node("Gather", ["table", "ids"], ["y"], "embed")],
        {"table": table},
        [("ids", TensorProto.INT64, ["n"])],
        [("y", ["n", 45])],
    )
    with pytest.raises(UnsupportedError, match="45 columns"):
        edited(model, lower({"table": wo.quantize("rtn", table.T, Blocks(4, 16))}))
    assert lowered_nodes(edited(model, lower({"table": wo.quantize("rtn", table.T, Blocks(8, 16))})))


def test_storage_blocks_of_a_per_channel_weight():
    assert storage_block_size(384, 4) == 128
    assert storage_block_size(1536, 8) == 256
    assert storage_block_size(44, 8) == 16


def shared_input(k=64, n=16):
    """`y = x @ q + x @ v`."""
    weights = {name: RNG.normal(0, 0.05, (k, n)).astype(np.float32) for name in ("q", "v")}
    nodes = [
        helper.make_node("MatMul", ["x", "q"], ["a"], "q_proj"),
        helper.make_node("MatMul", ["x", "v"], ["c"], "v_proj"),
        helper.make_node("Add", ["a", "c"], ["y"], "add"),
    ]
    inputs, outputs = [("x", TensorProto.FLOAT, ["rows", k])], [("y", ["rows", n])]
    return model_of(nodes, weights, inputs, outputs), weights


def reordered(weight, order):
    """Quantized with its inputs in another order: what GPTQ with activation order leaves."""
    return replace(wo.quantize("rtn", weight[order], Blocks(4, 32)), input_order=order)


@pytest.mark.parametrize("same", [True, False])
def test_inputs_in_another_order_are_gathered_once_for_the_layers_that_share_it(same, tmp_path):
    model, weights = shared_input()
    orders = [RNG.permutation(64) for _ in weights]
    quantized = {
        name: reordered(weight, orders[0] if same else order)
        for (name, weight), order in zip(weights.items(), orders, strict=True)
    }
    lowering = edited(model, lower(quantized))
    assert sum(node.op_type == "Gather" for node in lowering.graph) == (1 if same else 2)
    x = RNG.normal(size=(5, 64)).astype(np.float32)
    # The rows of a weight keep their places: a wrong order would be another function altogether.
    for name, weight in weights.items():
        assert relative(quantized[name].dequantize(), weight) < 0.1
        assert relative(quantized[name].dequantize_stored(), weight) > 1
    exact = x @ (quantized["q"].dequantize() + quantized["v"].dequantize())
    assert relative(run(at_level_zero(lowering), tmp_path, x=x)[0], exact) < 1e-5
    verify_weight_only(tmp_path / "m.onnx", lowered_nodes(lowering))


def test_offsets_and_scales_meet_the_order(tmp_path):
    """All three at once: scales are of the layer's own inputs, offsets of the blocks of codes."""
    model, weights = shared_input()
    order = RNG.permutation(64)
    scales = RNG.uniform(0.5, 2, 64).astype(np.float32)
    quantized = {
        name: replace(
            reordered(weight * scales[:, None], order),
            input_scales=scales,
            offsets=RNG.normal(0, 0.05, (16, 2)).astype(np.float32),
        )
        for name, weight in weights.items()
    }
    x = RNG.normal(size=(5, 64)).astype(np.float32)
    exact = x @ (quantized["q"].dequantize() + quantized["v"].dequantize())
    assert relative(run(at_level_zero(edited(model, lower(quantized))), tmp_path, x=x)[0], exact) < 1e-5
    without = {name: replace(weight, offsets=None) for name, weight in quantized.items()}
    assert relative(run(at_level_zero(edited(model, lower(without))), tmp_path, x=x)[0], exact) > 1e-2


def test_a_table_cannot_be_reordered():
    model = model_of(
        [helper.make_node("Gather", ["table", "ids"], ["y"], "embed")],
        {"table": np.zeros((20, 64), np.float32)},
        [("ids", TensorProto.INT64, ["n"])],
        [("y", ["n", 64])],
    )
    weight = reordered(RNG.normal(size=(64, 20)).astype(np.float32), np.arange(64)[::-1].copy())
    with pytest.raises(UnsupportedError, match="`table` has its columns in another order"):
        edited(model, lower({"table": weight}))
