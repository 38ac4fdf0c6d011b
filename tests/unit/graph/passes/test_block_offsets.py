"""Blocks with an offset: product and lookup are those of the dequantized weight, the codes stay symmetric."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeq.errors import UnsupportedError
from edgeq.graph.passes.sequence import edited
from edgeq.graph.passes.weight_only import lowered_nodes, verify_weight_only
from edgeq.quantize import weight_only as wo
from edgeq.quantize.formats import Blocks
from edgeq.quantize.weight_only.matmul_nbits import lower
from edgeq.quantize.weight_only.quantized_weight import QuantizedWeight

RNG = np.random.default_rng(0)
K, N, VOCABULARY = 64, 24, 40
EPS = float(np.finfo(np.float32).eps)


def with_offsets(shape: tuple[int, int], bits: int = 4, block: int = 32) -> QuantizedWeight:
    weight = RNG.normal(0, 0.05, shape).astype(np.float32)
    found = wo.quantize("rtn", weight, Blocks(bits, block))
    return replace(found, offsets=RNG.normal(0, 0.05, found.scales.shape).astype(np.float32))


def graph_of(tied: bool) -> ir.Model:
    """`rows = table[ids]; y = rows @ (table.T or w)`, a second layer reading the same rows where not tied."""
    table = np.zeros((VOCABULARY, K), np.float32)
    initializers = {"table": table}
    nodes = [helper.make_node("Gather", ["table", "ids"], ["rows"], "lookup")]
    outputs = {"y": VOCABULARY if tied else N}
    if tied:
        nodes.append(helper.make_node("Transpose", ["table"], ["flipped"], "flip", perm=[1, 0]))
        nodes.append(helper.make_node("MatMul", ["rows", "flipped"], ["y"], "head"))
    else:
        initializers |= {"w": np.zeros((K, N), np.float32), "v": np.zeros((K, N), np.float32)}
        nodes += [
            helper.make_node("MatMul", ["rows", "w"], ["y"], "first"),
            helper.make_node("MatMul", ["rows", "v"], ["z"], "second"),
        ]
        outputs["z"] = N
    outputs["rows"] = K
    proto = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "sequence"])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "sequence", size])
            for name, size in outputs.items()
        ],
        [numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return ir.serde.deserialize_model(model)


def run(model: ir.Model, path: Path) -> dict[str, np.ndarray]:
    for node in model.graph:
        if node.op_type == "MatMulNBits":
            # Float inputs: what is tested is the weight, not how its kernel rounds activations.
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 0)
    ir.save(model, path)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ids = np.arange(12).reshape(3, 4)
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, {"ids": ids}), strict=True))


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    """Sums of K products of order one twentieth, in another order."""
    return bool(np.abs(found - expected).max() <= 2 * K * EPS * np.abs(expected).max())


@pytest.mark.parametrize("bits", [4, 8])
def test_lookup_and_products(bits: int, tmp_path: Path) -> None:
    table = with_offsets((K, VOCABULARY), bits)
    weights = {"table": table, "w": with_offsets((K, N)), "v": with_offsets((K, N))}
    lowering = edited(graph_of(tied=False), lower(weights))
    counts = Counter(node.op_type for node in lowering.graph)
    assert counts["ReduceSum"] == 1  # both layers read one tensor
    assert all(node.symmetric for node in lowered_nodes(lowering))
    found = run(lowering, tmp_path / "m.onnx")
    rows = table.dequantize().T[np.arange(12).reshape(3, 4)]
    assert np.abs(found["rows"] - rows).max() <= EPS * np.abs(rows).max()
    assert close(found["y"], rows @ weights["w"].dequantize())
    assert close(found["z"], rows @ weights["v"].dequantize())
    assert not close(found["y"], rows @ replace(weights["w"], offsets=None).dequantize())


def test_a_table_that_is_the_head_stores_its_offsets_once(tmp_path: Path) -> None:
    table = with_offsets((K, VOCABULARY))
    lowering = edited(graph_of(tied=True), lower({"table": table}))
    found = run(lowering, tmp_path / "m.onnx")
    dense = table.dequantize()
    rows = dense.T[np.arange(12).reshape(3, 4)]
    assert close(found["y"], rows @ dense)
    stored = [v for v in lowering.graph.initializers.values() if v.const_value.size == table.offsets.size]
    assert len([v for v in stored if v.const_value.dtype == ir.DataType.FLOAT]) == 1


def test_the_file_is_read_back(tmp_path: Path) -> None:
    lowering = edited(graph_of(tied=False), lower({"w": with_offsets((K, N))}))
    ir.save(lowering, tmp_path / "m.onnx")
    verify_weight_only(tmp_path / "m.onnx", lowered_nodes(lowering))


def test_bits_count_the_offsets() -> None:
    plain = wo.quantize("rtn", np.ones((K, N), np.float32), Blocks(4, 32))
    assert replace(plain, offsets=np.zeros((N, 2), np.float32)).bits_per_weight == plain.bits_per_weight + 1


def test_blocks_must_divide_the_rows() -> None:
    weight = with_offsets((K - 8, N), block=32)
    model = graph_of(tied=False)
    value = model.graph.initializers["w"]
    value.const_value = ir.tensor(np.zeros((K - 8, N), np.float32), name="w")
    value.shape = ir.Shape([K - 8, N])
    with pytest.raises(UnsupportedError, match="do not divide"):
        edited(model, lower({"w": weight}))
