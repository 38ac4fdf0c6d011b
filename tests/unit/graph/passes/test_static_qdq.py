"""Static int8 on inputs: error bounds that follow from the scales, and kernels that really fuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.graph.passes.sequence import edited
from edgeq.graph.passes.static_qdq import (
    LinearQDQ,
    quantize_embeddings,
    quantize_linears,
    quantize_rows,
)
from edgeq.graph.static_weight import StaticWeight
from edgeq.numerics import affine_params
from edgeq.runtime.session import Signature, VariantSession
from edgeq.saturation import pair_safe_scale
from edgeq.targets.kernels import optimized_kernels
from edgeq.types import TensorSpec

K, N = 16, 8
SIGNATURE = Signature((TensorSpec("x", "float32", ("rows", K)),), (TensorSpec("y", "float32", ("rows", N)),))


def linear_model(weight: np.ndarray, bias: np.ndarray | None) -> ir.Model:
    x = ir.Value(name="x", shape=ir.Shape(["rows", K]), type=ir.TensorType(ir.DataType.FLOAT))
    w = ir.Value(
        name="w",
        const_value=ir.tensor(weight, name="w"),
        shape=ir.Shape(weight.shape),
        type=ir.TensorType(ir.DataType.FLOAT),
    )
    initializers = [w]
    nodes = [ir.node("MatMul", [x, w], name="linear")]
    if bias is not None:
        b = ir.Value(
            name="b",
            const_value=ir.tensor(bias, name="b"),
            shape=ir.Shape(bias.shape),
            type=ir.TensorType(ir.DataType.FLOAT),
        )
        initializers.append(b)
        nodes[0].outputs[0].name = "product"
        nodes.append(ir.node("Add", [nodes[0].outputs[0], b], name="add"))
    output = nodes[-1].outputs[0]
    output.name, output.shape, output.type = "y", ir.Shape(["rows", N]), ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], [output], nodes=nodes, initializers=initializers, opset_imports={"": 20})
    return ir.Model(graph, ir_version=10)


def run(model: ir.Model, x: np.ndarray, folder: Path) -> np.ndarray:
    ir.save(model, folder / "linear.onnx")
    return VariantSession(folder / "linear.onnx", SIGNATURE).run({"x": x})["y"]


def error_bound(x: np.ndarray, weight: np.ndarray, low: float, high: float) -> np.ndarray:
    """Half a step of the input times the weights, half a step of the weights times the input, and both."""
    step_x = float(affine_params(low, high, "uint8", False)[0])
    step_w = pair_safe_scale(weight)
    return (
        step_x / 2 * np.abs(weight).sum(axis=0)
        + step_w / 2 * np.abs(x).sum(axis=1, keepdims=True)
        + K * step_x / 2 * step_w / 2
    ) * 1.01


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("bias", [True, False])
def test_error_stays_within_half_a_step(dtype: Any, bias: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    x = rng.uniform(-2, 3, (5, K)).astype(np.float32)
    weight = rng.normal(size=(K, N)).astype(np.float32) * np.linspace(0.1, 10, N, dtype=np.float32)
    model = linear_model(weight, rng.normal(size=N).astype(np.float32) if bias else None)
    exact = run(model, x, tmp_path)
    quantized = edited(model, quantize_linears([LinearQDQ("linear", (-2.0, 3.0))], activation_dtype=dtype))
    assert (np.abs(run(quantized, x, tmp_path) - exact) <= error_bound(x, weight, -2, 3)).all()


def test_the_bound_can_fail(tmp_path: Path) -> None:
    """A range that cuts off half the values breaks it."""
    rng = np.random.default_rng(1)
    x = rng.uniform(-2, 3, (5, K)).astype(np.float32)
    weight = rng.normal(size=(K, N)).astype(np.float32)
    model = linear_model(weight, None)
    clipped = edited(model, quantize_linears([LinearQDQ("linear", (-0.5, 0.5))]))
    assert not (
        np.abs(run(clipped, x, tmp_path) - run(model, x, tmp_path)) <= error_bound(x, weight, -2, 3)
    ).all()


@pytest.mark.parametrize("bias", [True, False])
def test_bias_shift_is_added(bias: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    x = rng.uniform(-1, 1, (3, K)).astype(np.float32)
    model = linear_model(
        rng.normal(size=(K, N)).astype(np.float32), np.zeros(N, np.float32) if bias else None
    )
    shift = np.arange(N, dtype=np.float32)
    plain = run(edited(model, quantize_linears([LinearQDQ("linear", (-1, 1))])), x, tmp_path)
    shifted = run(edited(model, quantize_linears([LinearQDQ("linear", (-1, 1), shift)])), x, tmp_path)
    assert np.allclose(shifted - plain, shift, atol=1e-5)  # float32 addition of values below 30


def test_rows_golden() -> None:
    codes, scale = quantize_rows(np.array([[1.0, -0.5], [-4.0, 2.0]], np.float32))
    assert (
        codes.tolist() == [[127, -64], [-127, 64]] and codes.dtype == np.int8
    )  # -63.5 and 63.5 round to even
    assert np.allclose(scale, [1 / 127, 4 / 127])


def test_given_codes_are_taken_as_they_are() -> None:
    rng = np.random.default_rng(8)
    codes = rng.integers(-60, 60, (K, N)).astype(np.int8)
    given = StaticWeight(codes, rng.uniform(0.01, 0.02, N).astype(np.float32))
    model = linear_model(rng.normal(size=(K, N)).astype(np.float32), None)
    found = edited(
        model, quantize_linears([LinearQDQ("linear", (-1.0, 1.0))], {"w": given})
    ).graph.initializers
    assert np.array_equal(found["w.quantized"].const_value.numpy(), given.codes)
    assert np.array_equal(found["w.scale"].const_value.numpy(), given.scale)


def test_every_layer_fuses_into_an_integer_kernel(exported: Callable[..., Any], tmp_path: Path) -> None:
    model = exported("bert").canonical.model
    linears = [
        node.name for node in model.graph if node.op_type == "MatMul" and node.inputs[1].is_initializer()
    ]
    quantized = edited(model, quantize_linears([LinearQDQ(name, (-3.0, 3.0)) for name in linears]))
    ir.save(quantized, tmp_path / "int8.onnx")
    ir.save(model, tmp_path / "fp32.onnx")
    assert len(linears) == 12
    assert optimized_kernels(tmp_path / "int8.onnx").integer_matmuls == 12
    assert optimized_kernels(tmp_path / "fp32.onnx").integer_matmuls == 0


def test_embedding_rows_keep_half_a_step(exported: Callable[..., Any], tmp_path: Path) -> None:
    canonical = exported("bert").canonical
    gather = next(
        node
        for node in canonical.model.graph
        if node.op_type == "Gather" and node.inputs[1].name == "input_ids"
    )
    table = gather.inputs[0].const_value.numpy()
    quantized = edited(canonical.model, quantize_embeddings([gather.name]))
    codes = quantized.graph.initializers[f"{gather.inputs[0].name}.quantized"].const_value.numpy()
    scales = quantized.graph.initializers[f"{gather.inputs[0].name}.scale"].const_value.numpy()
    assert codes.dtype == np.int8 and scales.shape == (len(table), 1)
    assert (np.abs(codes * scales - table) <= scales / 2 * 1.001).all()
    assert gather.inputs[0].name not in quantized.graph.initializers
    ir.save(quantized, tmp_path / "model.onnx")
    VariantSession(tmp_path / "model.onnx", canonical)
