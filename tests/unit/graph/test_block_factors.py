"""Scales as products of factors: the same numbers in fewer bytes, and rows that stay together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeq.graph.block_factors import BlockFactors, Product, join_factors
from edgeq.graph.passes.sequence import edited

RNG = np.random.default_rng(0)


def product(rows: int = 6, groups: int = 2, size: int = 4) -> Product:
    coarse = RNG.normal(0, 0.01, (rows, groups)).astype(np.float16)
    return Product(coarse, RNG.integers(-32, 64, (rows, groups * size)).astype(np.int8))


def test_values_golden() -> None:
    found = Product(np.array([[0.5, -2.0]], np.float16), np.array([[1, -3, 0, 7]], np.int8)).values()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[0.5, -1.5, 0.0, -14.0]])


def test_offsets_are_centred() -> None:
    factors = BlockFactors(product(), product(), 8)
    expected = np.float32(8) * factors.scale.values() + factors.minimum.values()  # type: ignore[union-attr]
    np.testing.assert_array_equal(factors.offsets(), expected)
    assert replace(factors, minimum=None).offsets() is None


def test_rows_and_joins() -> None:
    first, second = BlockFactors(product(), product(), 8), BlockFactors(product(), product(), 8)
    joined = join_factors([first, second])
    order = RNG.permutation(12)
    np.testing.assert_array_equal(
        joined.rows(order).scale.values(),
        np.concatenate([first.scale.values(), second.scale.values()])[order],
    )
    assert joined.size_bytes == first.size_bytes + second.size_bytes == 2 * 2 * (6 * 2 * 2 + 6 * 8)


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K", "Q2_K"])
def test_a_lowered_weight_has_the_same_scales_and_offsets(kind: str, tmp_path: Path) -> None:
    import onnx_ir as ir

    gguf_import = pytest.importorskip("edgeq.quantize.weight_only.gguf_import")
    from edgeq.graph.passes.weight_only import lowered_nodes, verify_weight_only
    from edgeq.quantize.weight_only.matmul_nbits import lower

    layout = gguf_import.FORMATS[kind]
    data = RNG.integers(0, 256, (8, 2, layout.bytes_per_block)).astype(np.uint8)
    for at in {"Q4_K": (0, 2), "Q6_K": (208,), "Q2_K": (80, 82)}[kind]:
        data[..., at : at + 2] = RNG.normal(0, 0.01, (8, 2)).astype("<f2")[..., None].view(np.uint8)
    weight = gguf_import.import_blocks(kind, data.reshape(8, -1), 512)
    assert weight.factors is not None
    np.testing.assert_array_equal(weight.factors.scale.values(), weight.scales)
    if weight.offsets is not None:
        np.testing.assert_array_equal(weight.factors.offsets(), weight.offsets)
    results = []
    for stored in (weight, replace(weight, factors=None)):
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"], "fc")],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "sequence", 512])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "sequence", 8])],
            [numpy_helper.from_array(np.zeros((512, 8), np.float32), "w")],
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        lowering = edited(ir.from_proto(proto), lower({"w": stored}))
        path = tmp_path / f"{len(results)}.onnx"
        ir.save(lowering, path)
        verify_weight_only(path, lowered_nodes(lowering))
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        x = np.random.default_rng(1).normal(size=(1, 3, 512)).astype(np.float32)
        results.append((session.run(None, {"x": x})[0], path.stat().st_size))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    assert (
        results[0][1] < results[1][1] + 2000
        and weight.bits_per_weight < replace(weight, factors=None).bits_per_weight
    )
