"""Integer kernels written out: the same numbers as the QDQ form, the bias inside, codes moved instead of floats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.graph.passes.integer_linears import fuse_integer_linears
from edgeq.graph.passes.sequence import edited
from edgeq.graph.passes.static_qdq import LinearQDQ, quantize_linears
from edgeq.runtime.session import Signature, VariantSession
from edgeq.targets.kernels import optimized_kernels
from edgeq.types import TensorSpec

HIDDEN, HEADS = 16, 4
SHAPE = ("batch", "sequence", HIDDEN)
SIGNATURE = Signature((TensorSpec("x", "float32", SHAPE),), (TensorSpec("y", "float32", SHAPE),))
EPS = float(np.finfo(np.float32).eps)


def _constant(data: np.ndarray, name: str) -> ir.Value:
    tensor = ir.tensor(data, name=name)
    return ir.Value(
        name=name, const_value=tensor, shape=ir.Shape(data.shape), type=ir.TensorType(tensor.dtype)
    )


def linear(*, bias: bool = True, gemm: bool = False, moved: bool = False) -> ir.Model:
    """`y = linear(x)`, x optionally split into heads, transposed, transposed back and merged before."""
    rng = np.random.default_rng(3)
    shape = ["rows", HIDDEN] if gemm else list(SHAPE)
    x = ir.Value(name="x", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
    weight = _constant(rng.normal(size=(HIDDEN, HIDDEN)).astype(np.float32), "w")
    offset = _constant(rng.normal(size=HIDDEN).astype(np.float32), "b")
    initializers, nodes = [weight, *([offset] if bias else [])], []
    value = x
    if moved:
        split = _constant(np.array([0, 0, HEADS, HIDDEN // HEADS]), "split")
        merge = _constant(np.array([0, 0, HIDDEN]), "merge")
        initializers += [split, merge]
        for op, inputs, attributes in (
            ("Reshape", [split], {}),
            ("Transpose", [], {"perm": [0, 2, 1, 3]}),
            ("Transpose", [], {"perm": [0, 2, 1, 3]}),
            ("Reshape", [merge], {}),
        ):
            nodes.append(ir.node(op, [value, *inputs], attributes, name=f"move{len(nodes)}"))
            value = nodes[-1].outputs[0]
            value.name, value.type = f"moved{len(nodes)}", ir.TensorType(ir.DataType.FLOAT)
    if gemm:
        inputs = [value, weight, *([offset] if bias else [])]
        nodes.append(ir.node("Gemm", inputs, {"transB": 1}, name="linear"))
    else:
        nodes.append(ir.node("MatMul", [value, weight], name="linear"))
        if bias:
            nodes[-1].outputs[0].name = "product"
            nodes.append(ir.node("Add", [nodes[-1].outputs[0], offset], name="add"))
    y = nodes[-1].outputs[0]
    y.name, y.shape, y.type = "y", ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
    return ir.Model(
        ir.Graph([x], [y], nodes=nodes, initializers=initializers, opset_imports={"": 20}), ir_version=10
    )


def outputs(model: ir.Model, folder: Path, x: np.ndarray) -> np.ndarray:
    ir.save(model, folder / "model.onnx")
    return VariantSession(folder / "model.onnx", _signature(model)).run({"x": x})["y"]


def _signature(model: ir.Model) -> Signature:
    shape = tuple(
        dim if isinstance(dim, int) else str(dim.value) for dim in model.graph.inputs[0].shape or ()
    )
    return Signature((TensorSpec("x", "float32", shape),), (TensorSpec("y", "float32", shape),))


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("form", ["matmul", "gemm", "moved"])
def test_equals_the_qdq_form(form: str, bias: bool, tmp_path: Path) -> None:
    model = linear(bias=bias, gemm=form == "gemm", moved=form == "moved")
    qdq = edited(model, quantize_linears([LinearQDQ("linear", (-3.0, 3.0))]))
    fused = edited(qdq, fuse_integer_linears())
    assert operators(fused)["MatMulIntegerToFloat"] == operators(fused)["QuantizeLinear"] == 1
    assert not operators(fused).keys() & {"Add", "MatMul", "Gemm", "DequantizeLinear"}
    shape = (5, HIDDEN) if form == "gemm" else (2, 5, HIDDEN)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = outputs(qdq, tmp_path, x)
    # The integer sum is exact; scaling it and adding the bias rounds a few times, to eps of values below 64.
    bound = 4 * EPS * 64
    assert np.abs(outputs(fused, tmp_path, x) - expected).max() <= bound
    other = edited(model, quantize_linears([LinearQDQ("linear", (-3.0, 3.1))]), fuse_integer_linears())
    assert np.abs(outputs(other, tmp_path, x) - expected).max() > bound


def test_codes_are_moved_not_floats() -> None:
    fused = edited(
        linear(moved=True), quantize_linears([LinearQDQ("linear", (-3.0, 3.0))]), fuse_integer_linears()
    )
    assert [node.op_type for node in fused.graph] == [
        "QuantizeLinear", "Reshape", "Transpose", "Transpose", "Reshape", "MatMulIntegerToFloat",
    ]  # fmt: skip
    assert fused.graph[1].outputs[0].type == ir.TensorType(ir.DataType.UINT8)


def test_floats_that_others_read_stay_floats(tmp_path: Path) -> None:
    model = linear(moved=True)
    model.graph.outputs.append(model.graph[3].outputs[0])
    fused = edited(model, quantize_linears([LinearQDQ("linear", (-3.0, 3.0))]), fuse_integer_linears())
    assert [node.op_type for node in fused.graph][-2:] == ["QuantizeLinear", "MatMulIntegerToFloat"]


def test_a_layer_whose_product_is_read_twice_keeps_its_bias_outside(tmp_path: Path) -> None:
    model = linear()
    model.graph.outputs.append(model.graph[0].outputs[0])
    model.graph.outputs[1].type = ir.TensorType(ir.DataType.FLOAT)
    model.graph.outputs[1].shape = ir.Shape(SHAPE)
    fused = edited(model, quantize_linears([LinearQDQ("linear", (-3.0, 3.0))]), fuse_integer_linears())
    assert operators(fused)["Add"] == 1 and operators(fused)["MatMulIntegerToFloat"] == 1
    assert [output.name for output in fused.graph.outputs] == ["y", "product"]
    ir.save(fused, tmp_path / "model.onnx")
    specs = tuple(TensorSpec(name, "float32", SHAPE) for name in ("y", "product"))
    VariantSession(tmp_path / "model.onnx", Signature(SIGNATURE.inputs, specs))


def test_layers_that_share_an_input_share_its_quantization(
    exported: Callable[..., Any], tmp_path: Path
) -> None:
    model = exported("bert").canonical.model
    linears = [
        node.name for node in model.graph if node.op_type == "MatMul" and node.inputs[1].is_initializer()
    ]
    qdq = edited(model, quantize_linears([LinearQDQ(name, (-3.0, 3.0)) for name in linears]))
    fused = edited(qdq, fuse_integer_linears())
    counts = operators(fused)
    assert counts["MatMulIntegerToFloat"] == len(linears) and counts["QuantizeLinear"] < len(linears)
    assert not counts["DequantizeLinear"]
    assert set(linears) <= {node.name for node in fused.graph if node.op_type == "MatMulIntegerToFloat"}
    ir.save(fused, tmp_path / "model.onnx")
    assert optimized_kernels(tmp_path / "model.onnx").integer_matmuls == len(linears)


def test_the_argument_is_left_alone() -> None:
    qdq = edited(linear(), quantize_linears([LinearQDQ("linear", (-3.0, 3.0))]))
    before = operators(qdq)
    edited(qdq, fuse_integer_linears())
    assert operators(qdq) == before
