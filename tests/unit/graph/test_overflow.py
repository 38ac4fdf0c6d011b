"""Layers whose integer sums can saturate are found in every form a graph can have them; ours never are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeq.errors import ModelError
from edgeq.graph.overflow import find_saturating
from edgeq.graph.passes.integer_linears import fuse_integer_linears
from edgeq.graph.passes.sequence import edited
from edgeq.graph.passes.static_qdq import LinearQDQ, quantize_linears
from edgeq.graph.static_weight import nearest_codes

K, N = 32, 8
WEIGHT = np.random.default_rng(4).normal(size=(K, N)).astype(np.float32)
SAFE = nearest_codes(WEIGHT).codes
UNSAFE = np.full((K, N), 100, np.int8)


def graph_of(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], dtype: int = TensorProto.UINT8
) -> ir.Model:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", dtype, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=8))


def operator(name: str, domain: str, inputs: list[str], codes: np.ndarray, **attributes: Any) -> ir.Model:
    node = helper.make_node(name, inputs, ["y"], name="layer", domain=domain, **attributes)
    scalars = {"s": np.float32(0.1), "z": np.uint8(128), "n": np.int8(0)}
    return graph_of([node], {"w": codes} | scalars)


def qdq(op: str, codes: np.ndarray, **attributes: Any) -> ir.Model:
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s", "z"], ["a"]),
        helper.make_node("DequantizeLinear", ["w", "s", "n"], ["b"]),
        helper.make_node(op, ["a", "b"], ["y"], name="layer", **attributes),
    ]
    return graph_of(nodes, {"w": codes, "s": np.float32(0.1), "z": np.uint8(128), "n": np.int8(0)})


def kernels(codes: np.ndarray) -> ir.Model:
    """As a convolution has them: `[out, in, height, width]`."""
    return np.ascontiguousarray(codes.T).reshape(N, K // 4, 2, 2)


FORMS: dict[str, Callable[[np.ndarray], ir.Model]] = {
    "MatMulInteger": lambda w: operator("MatMulInteger", "", ["x", "w"], w),
    "MatMulIntegerToFloat": lambda w: operator(
        "MatMulIntegerToFloat", "com.microsoft", ["x", "w", "s", "s"], w
    ),
    "DynamicQuantizeMatMul": lambda w: operator("DynamicQuantizeMatMul", "com.microsoft", ["x", "w", "s"], w),
    "QLinearMatMul": lambda w: operator("QLinearMatMul", "", ["x", "s", "z", "w", "s", "n", "s", "z"], w),
    "batched": lambda w: operator("MatMulInteger", "", ["x", "w"], np.stack([w[::-1], w])),
    "QGemm": lambda w: operator("QGemm", "com.microsoft", ["x", "s", "z", "w", "s", "n"], w),
    "QGemm transposed": lambda w: operator(
        "QGemm", "com.microsoft", ["x", "s", "z", "w", "s", "n"], np.ascontiguousarray(w.T), transB=1
    ),
    "QLinearConv": lambda w: operator(
        "QLinearConv", "", ["x", "s", "z", "w", "s", "n", "s", "z"], kernels(w)
    ),
    "QDQ MatMul": lambda w: qdq("MatMul", w),
    "QDQ Gemm": lambda w: qdq("Gemm", np.ascontiguousarray(w.T), transB=1),
    "QDQ Conv": lambda w: qdq("Conv", kernels(w)),
}


@pytest.mark.parametrize("form", FORMS)
def test_unsafe_weights_are_found(form: str) -> None:
    [layer] = find_saturating(FORMS[form](UNSAFE))
    assert (layer.node, layer.largest_pair) == ("layer", 200)


@pytest.mark.parametrize("form", [form for form in FORMS if "Conv" not in form and form != "batched"])
def test_safe_weights_are_not(form: str) -> None:
    assert find_saturating(FORMS[form](SAFE)) == []


@pytest.mark.parametrize("form", ["QLinearConv", "QDQ Conv", "batched"])
def test_small_weights_are_safe_in_every_order(form: str) -> None:
    """Neighbours in a convolution hang on the layout, and a batch's other matrix has its rows turned round."""
    assert find_saturating(FORMS[form](np.full((K, N), 64, np.int8))) == []


def test_unsigned_weights_are_exact_everywhere() -> None:
    assert find_saturating(FORMS["MatMulInteger"](UNSAFE.view(np.uint8))) == []


def test_float_layers_are_not_looked_at() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="layer")]
    assert find_saturating(graph_of(nodes, {"w": WEIGHT}, TensorProto.FLOAT)) == []


def test_int8_factors_that_are_computed_can_be_anything() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("QuantizeLinear", ["f", "s", "n"], ["w"]),
        helper.make_node("MatMulInteger", ["x", "w"], ["y"], name="layer"),
    ]
    [layer] = find_saturating(graph_of(nodes, {"s": np.float32(0.1), "n": np.int8(0)}))
    assert layer.largest_pair == 256 and not layer.is_constant


def written_otherwise(
    *steps: tuple[str, list[str], str], weight: np.ndarray, **constants: np.ndarray
) -> ir.Model:
    """A QDQ product whose weight is made of constants by some steps, `b` at the end."""
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s", "z"], ["a"]),
        *(helper.make_node(op, inputs, [output]) for op, inputs, output in steps),
        helper.make_node("MatMul", ["a", "b"], ["y"], name="layer"),
    ]
    scalars = {"s": np.float32(0.1), "z": np.uint8(128), "n": np.int8(0)}
    return graph_of(nodes, {"w": weight} | scalars | constants)


OTHER_FORMS: dict[str, Callable[[np.ndarray], ir.Model]] = {
    "transposed behind": lambda w: written_otherwise(
        ("DequantizeLinear", ["w", "s", "n"], "d"), ("Transpose", ["d"], "b"), weight=w.T.copy()
    ),
    "transposed before": lambda w: written_otherwise(
        ("Transpose", ["w"], "t"), ("DequantizeLinear", ["t", "s", "n"], "b"), weight=w.T.copy()
    ),
    "an identity": lambda w: written_otherwise(
        ("DequantizeLinear", ["w", "s", "n"], "d"), ("Identity", ["d"], "b"), weight=w
    ),
    "reshaped": lambda w: written_otherwise(
        ("Reshape", ["w", "shape"], "r"),
        ("DequantizeLinear", ["r", "s", "n"], "b"),
        weight=w.reshape(-1),
        shape=np.array([K, N]),
    ),
    "quantized in the graph": lambda w: written_otherwise(
        ("QuantizeLinear", ["w", "s", "n"], "q"),
        ("DequantizeLinear", ["q", "s", "n"], "b"),
        weight=w.astype(np.float32) * np.float32(0.1),
    ),
}


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_however_the_weight_comes_to_its_product(form: str) -> None:
    [layer] = find_saturating(OTHER_FORMS[form](UNSAFE))
    assert (layer.node, layer.largest_pair) == ("layer", 200)
    assert find_saturating(OTHER_FORMS[form](SAFE)) == []


def test_a_qdq_layer_stays_in_float_below_extended() -> None:
    assert find_saturating(FORMS["QDQ MatMul"](UNSAFE), "ORT_ENABLE_BASIC") == []
    assert find_saturating(FORMS["QDQ MatMul"](UNSAFE), "ORT_ENABLE_EXTENDED") != []
    assert find_saturating(FORMS["MatMulInteger"](UNSAFE), "ORT_ENABLE_BASIC") != []


def test_kernels_that_are_exact_are_not_named() -> None:
    signed = operator("MatMulInteger", "", ["x", "w"], UNSAFE)
    signed.graph.inputs[0].type = ir.TensorType(ir.DataType.INT8)
    taps = kernels(UNSAFE)
    depthwise = operator(
        "QLinearConv",
        "",
        ["x", "s", "z", "w", "s", "n", "s", "z"],
        taps.reshape(-1, 1, 2, 2),
        group=N * K // 4,
    )
    convolution = operator("ConvInteger", "", ["x", "w"], taps)
    assert [find_saturating(model) for model in (signed, depthwise, convolution)] == [[], [], []]


def test_missing_weights_are_an_error_of_the_file(tmp_path: Path) -> None:
    ir.save(
        FORMS["MatMulInteger"](UNSAFE), tmp_path / "m.onnx", external_data="w.bin", size_threshold_bytes=0
    )
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ModelError, match=r"m\.onnx"):
        find_saturating(tmp_path / "m.onnx")


def test_a_branch_of_if_is_looked_into() -> None:
    def branch(name: str, codes: np.ndarray) -> onnx.GraphProto:
        return helper.make_graph(
            [helper.make_node("MatMulInteger", ["x", f"w{name}"], [f"y{name}"], name=f"layer{name}")],
            name,
            [],
            [helper.make_tensor_value_info(f"y{name}", TensorProto.INT32, None)],
            [numpy_helper.from_array(codes, f"w{name}")],
        )

    node = helper.make_node(
        "If", ["c"], ["y"], then_branch=branch("A", SAFE), else_branch=branch("B", UNSAFE)
    )
    model = graph_of([node], {"c": np.array(True)})
    assert [layer.node for layer in find_saturating(model)] == ["layerB"]


def test_what_edgeq_writes_is_safe_and_what_onnxruntime_writes_is_not(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="layer")]
    model = graph_of(nodes, {"w": WEIGHT}, TensorProto.FLOAT)
    model.graph.inputs[0].shape = ir.Shape(["m", K])
    model.graph.outputs[0].shape = ir.Shape(["m", N])
    ours = edited(model, quantize_linears([LinearQDQ("layer", (-3.0, 3.0))]))
    assert find_saturating(ours) == find_saturating(edited(ours, fuse_integer_linears())) == []
    assert [layer.node for layer in find_saturating(stock_static(model, tmp_path))] == ["layer"]


def stock_static(model: ir.Model, folder: Path) -> Path:
    """ONNX Runtime's own `quantize_static`, with the usual types."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        feeds = iter([{"x": np.random.default_rng(0).normal(size=(16, K)).astype(np.float32)}])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    ir.save(model, folder / "float.onnx")
    quantize_static(
        folder / "float.onnx",
        folder / "int8.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    return folder / "int8.onnx"


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"bad\.onnx"):
        find_saturating(tmp_path / "bad.onnx")
