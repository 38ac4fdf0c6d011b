"""edgeq's plans and quantized weights carried into Core ML."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from edgeq.errors import UnsupportedError
from edgeq.quantize.formats import Blocks
from edgeq.quantize.plan import EmbeddingDecision, LinearDecision, QuantizationPlan
from edgeq.quantize.weight_only import quantize
from edgeq.targets.coreml.decisions import Int4Weight, Int8Weight
from edgeq.targets.coreml.plan import from_quantized_weight, from_static_plan

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "block"), [(4, 32), (8, -1)])
def test_codes_stand_for_the_same_weight(bits: int, block: int, symmetric: bool) -> None:
    weight = RNG.standard_normal((64, 12)).astype(np.float32)
    quantized = quantize("rtn", weight, Blocks(bits, block, symmetric))
    decision = from_quantized_weight(quantized)
    assert isinstance(decision, Int4Weight if bits == 4 else Int8Weight)
    codes = decision.codes
    assert codes is not None
    zero = 0 if codes.zero_point is None else codes.zero_point[..., None].astype(np.float32)
    blocks = codes.values.reshape(12, codes.scale.shape[1], -1).astype(np.float32)
    dense = ((blocks - zero) * codes.scale[..., None]).reshape(12, 64)
    np.testing.assert_array_equal(dense.T, quantized.dequantize())


def test_a_padded_block_is_refused() -> None:
    quantized = quantize("rtn", RNG.standard_normal((40, 4)).astype(np.float32), Blocks(4, 32))
    with pytest.raises(UnsupportedError, match="padded block"):
        from_quantized_weight(quantized)


def test_static_plan(graph: Any, lower: Any) -> None:
    table, weight = (RNG.standard_normal(shape).astype(np.float32) for shape in ((80, 16), (16, 8)))
    nodes = [
        onnx.helper.make_node("Gather", ["table", "ids"], ["h"], name="embed"),
        onnx.helper.make_node("MatMul", ["h", "w"], ["p"], name="dense"),
        onnx.helper.make_node("Add", ["p", "b"], ["out"], name="bias"),
    ]
    weights = {"table": table, "w": weight, "b": np.zeros(8, np.float32)}
    model = graph(nodes, {"ids": ("int64", (1, 4))}, ["out"], weights)
    shift, edge = np.arange(8, dtype=np.float32), np.zeros(8, np.float32)
    plan = QuantizationPlan(
        (),
        (LinearDecision("dense", True, "quantized", (-3.0, 3.0), edge, edge, shift),),
        (EmbeddingDecision("embed", True, "quantized"),),
    )
    planned = from_static_plan(model, plan, {})
    interpreter, lowered = lower(planned.model, weights=planned.weights, activations=planned.activations)
    assert lowered.compressed == ("dense", "table", "w")
    ids = np.array([[1, 5, 79, 0]])
    exact = table[ids] @ weight
    found = interpreter.run({"ids": ids})["out"]
    # 16 terms; inputs within half a step of 6/255 (or clipped), weights within half a step of 1/127.
    assert np.abs(found - shift - exact).max() < 0.35
    assert np.abs(found - exact).max() > 6
    counts = interpreter.operator_counts()
    assert (counts["quantize"], counts["constexpr_affine_dequantize"]) == (1, 2)
