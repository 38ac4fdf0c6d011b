"""Weights read back from a file are those that were quantized."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.graph.read_blocks import read_block_weights
from edgeq.quantize.formats import Blocks
from edgeq.quantize.weight_only import LayerStats, quantize
from edgeq.quantize.weight_only.matmul_nbits import lower

RNG = np.random.default_rng(9)


def graph(weight, table):
    text = f"""
<ir_version: 10, opset_import: ["": 20]>
g (int64[n] ids) => (float[n, {weight.shape[1]}] y)
{{
  [rows] x = Gather(table, ids)
  [product] y = MatMul(x, weight)
}}
"""
    model = ir.from_onnx_text(text)
    for name, array in (("weight", weight), ("table", table)):
        value = next(v for node in model.graph for v in node.inputs if v is not None and v.name == name)
        value.const_value = ir.tensor(array, name=name)
        value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.FLOAT)
        model.graph.register_initializer(value)
    return model


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("columns", [64, 40])  # 40 is not a multiple of the block
def test_what_was_written_is_read(tmp_path, bits, symmetric, columns):
    weight = RNG.standard_normal((columns, 24)).astype(np.float32)
    table = RNG.standard_normal((50, columns)).astype(np.float32)
    spec = Blocks(bits, 32, symmetric)
    codes = {"weight": quantize("rtn", weight, spec), "table": quantize("rtn", table.T, spec)}
    ir.save(lower(graph(weight, table), codes).model, tmp_path / "model.onnx")
    found = read_block_weights(tmp_path / "model.onnx")
    np.testing.assert_array_equal(found["product"], codes["weight"].dequantize())
    np.testing.assert_array_equal(found["rows"], codes["table"].dequantize())
    assert not np.array_equal(found["product"], weight)


def test_awq_factors_are_multiplied_back(tmp_path):
    weight = RNG.standard_normal((64, 24)).astype(np.float32)
    table = RNG.standard_normal((50, 64)).astype(np.float32)
    x = RNG.standard_normal((200, 64)) * np.linspace(0.1, 10, 64)
    stats = LayerStats((x**2).mean(0).astype(np.float32), 200, x.T @ x)
    code = quantize("awq", weight, Blocks(4, 32, True), stats)
    assert code.input_scales is not None
    ir.save(lower(graph(weight, table), {"weight": code}).model, tmp_path / "model.onnx")
    found = read_block_weights(tmp_path / "model.onnx")["product"]
    np.testing.assert_allclose(found, code.dequantize(), rtol=1e-6)
    assert not np.allclose(found, code.dequantize_stored(), rtol=1e-3)


def test_offsets_and_orders_are_undone(tmp_path):
    weight = RNG.standard_normal((64, 24)).astype(np.float32)
    table = RNG.standard_normal((50, 64)).astype(np.float32)
    order = RNG.permutation(64)
    scales = RNG.uniform(0.5, 2, 64).astype(np.float32)

    def lifted(values):
        found = quantize("rtn", values, Blocks(4, 32))
        return replace(found, offsets=RNG.normal(0, 1, found.scales.shape).astype(np.float32))

    product = replace(lifted((weight * scales[:, None])[order]), input_order=order, input_scales=scales)
    codes = {"weight": product, "table": lifted(table.T)}
    ir.save(lower(graph(weight, table), codes).model, tmp_path / "model.onnx")
    found = read_block_weights(tmp_path / "model.onnx")
    # The file holds 1 / scales in float32: two roundings, and one of the product.
    np.testing.assert_allclose(found["product"], product.dequantize(), rtol=2e-7)
    np.testing.assert_array_equal(found["rows"], codes["table"].dequantize())
    assert not np.allclose(found["product"], product.dequantize_stored() / scales[:, None], rtol=0.1)


def test_scales_stored_as_factors_are_multiplied_out(tmp_path):
    gguf_import = pytest.importorskip("edgeq.quantize.weight_only.gguf_import")
    layout = gguf_import.FORMATS["Q4_K"]
    data = RNG.integers(0, 256, (8, 2, layout.bytes_per_block)).astype(np.uint8)
    for at in (0, 2):
        data[..., at : at + 2] = RNG.normal(0, 0.01, (8, 2)).astype("<f2")[..., None].view(np.uint8)
    code = gguf_import.import_blocks("Q4_K", data.reshape(8, -1), 512)
    assert code.factors is not None and code.offsets is not None
    codes = {"weight": code, "table": code}
    weight = np.zeros((512, 8), np.float32)
    ir.save(lower(graph(weight, weight.T.copy()), codes).model, tmp_path / "model.onnx")
    found = read_block_weights(tmp_path / "model.onnx")
    np.testing.assert_array_equal(found["product"], code.dequantize())
    np.testing.assert_array_equal(found["rows"], code.dequantize())
    assert not np.array_equal(found["product"], replace(code, offsets=None, factors=None).dequantize())
