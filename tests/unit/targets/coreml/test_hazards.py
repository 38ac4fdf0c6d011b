"""Float16 hazards: found where ranges say so, and only there; keeping them in float32 repairs the result."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from edgeq.targets.coreml.hazards import find_hazards, measure_ranges

RNG = np.random.default_rng(4)


@pytest.fixture
def normed(graph: Any) -> Any:
    """A layer normalization whose input reaches 400: its squares leave float16."""
    nodes = [
        onnx.helper.make_node("Mul", ["x", "big"], ["y"], name="scale"),
        onnx.helper.make_node("LayerNormalization", ["y", "g"], ["z"], axis=-1, name="norm"),
        onnx.helper.make_node("Mul", ["y", "big"], ["w"], name="overflow"),
        onnx.helper.make_node("Tanh", ["z"], ["t"], name="calm"),
        onnx.helper.make_node("Tanh", ["w"], ["u"], name="reader"),
        onnx.helper.make_node("Add", ["t", "u"], ["out"], name="sum"),
    ]
    weights = {"big": np.array(300, np.float32), "g": np.ones(8, np.float32)}
    return graph(nodes, {"x": ("float32", (2, 8))}, ["out"], weights)


def test_ranges_and_hazards(normed: Any) -> None:
    x = RNG.uniform(-1, 1, (2, 8)).astype(np.float32)
    ranges = measure_ranges(normed, [{"x": x}, {"x": np.full((2, 8), 1.5, np.float32)}])
    assert ranges["y"] == (pytest.approx(float(x.min()) * 300), pytest.approx(450.0))
    found = {hazard.node: hazard.reason for hazard in find_hazards(normed, ranges)}
    assert set(found) == {"norm", "overflow", "reader"}
    assert "variance" in found["norm"]
    calm = measure_ranges(normed, [{"x": x * np.float32(1e-3)}])
    assert find_hazards(normed, calm) == ()


def test_keeping_hazards_in_float32_repairs_the_result(normed: Any, lower: Any) -> None:
    x = RNG.uniform(-1, 1, (2, 8)).astype(np.float32)
    hazards = find_hazards(normed, measure_ranges(normed, [{"x": x}]))
    broken, _ = lower(normed, precision="fp16")
    trace = broken.trace({"x": x})
    assert np.isinf(trace["w"]).any()
    repaired, _ = lower(normed, precision="fp16", fp32_nodes=frozenset(hazard.node for hazard in hazards))
    assert np.isfinite(repaired.trace({"x": x})["w"]).all()


def test_masks_are_no_hazard(graph: Any) -> None:
    node = onnx.helper.make_node("Add", ["x", "mask"], ["out"], name="masked")
    model = graph([node], {"x": ("float32", (2, 8))}, ["out"], {"mask": np.zeros(8, np.float32)})
    assert find_hazards(model, {"out": (-3.4e38, 12.0)}) == ()
    assert [item.node for item in find_hazards(model, {"out": (-4e4, 12.0)})] == ["masked"]


@pytest.mark.parametrize(
    ("op", "attributes", "safe", "hot"),
    [
        ("Softplus", {}, 10.0, 11.5),
        ("Gelu", {"approximate": "tanh"}, 30.0, 40.0),
        ("ReduceLogSumExp", {"keepdims": 0}, 10.0, 11.5),
    ],
)
def test_hidden_intermediates(
    graph: Any, op: str, attributes: dict[str, Any], safe: float, hot: float
) -> None:
    node = onnx.helper.make_node(op, ["x"], ["out"], name="node", **attributes)
    model = graph([node], {"x": ("float32", (2, 8))}, ["out"])
    assert find_hazards(model, {"x": (-1.0, safe)}) == ()
    assert [item.node for item in find_hazards(model, {"x": (-1.0, hot)})] == ["node"]
