"""Last bits are moved where values are about to be rounded, by no more than a last bit, and reproducibly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.graph.passes.rounding_noise import LAST_BIT, add_rounding_noise
from edgeq.graph.passes.sequence import edited
from edgeq.graph.passes.static_qdq import LinearQDQ, quantize_linears
from edgeq.quantize.sites import find_sites
from edgeq.runtime.session import VariantSession
from edgeq.samples import as_samples


def outputs(model: ir.Model, canonical: Any, feeds: Any, folder: Path) -> np.ndarray:
    ir.save(model, folder / "m.onnx")
    return next(iter(VariantSession(folder / "m.onnx", canonical).run(feeds).values()))


@pytest.fixture
def float_model(exported: Callable[..., Any]) -> Any:
    return exported("bert")


def quantized(model: Any) -> ir.Model:
    linears = [LinearQDQ(site.name, (-3.0, 3.0)) for site in find_sites(model.canonical.model).linears]
    return edited(model.canonical.model, quantize_linears(linears))


def test_every_quantizer_s_input_gets_noise_once(float_model: Any) -> None:
    graph = quantized(float_model)
    inputs = {node.inputs[0] for node in graph.graph if node.op_type == "QuantizeLinear"}
    noisy = edited(graph, add_rounding_noise(0)).graph
    assert sum(node.op_type == "RandomUniformLike" for node in noisy) == len(inputs) > 4
    assert not any(node.op_type == "RandomUniformLike" for node in graph.graph)


def test_a_float_graph_gets_it_in_front_of_its_products(float_model: Any) -> None:
    noisy = edited(float_model.canonical.model, add_rounding_noise(0)).graph
    assert sum(node.op_type == "RandomUniformLike" for node in noisy) > 4


@pytest.mark.parametrize("form", ["float", "int8"])
def test_it_moves_outputs_a_little(form: str, float_model: Any, tmp_path: Path) -> None:
    graph = float_model.canonical.model if form == "float" else quantized(float_model)
    feeds = float_model.preprocessor(as_samples(["some text", "another, longer text about nothing"]))
    plain, one, again, other = (
        outputs(model, float_model.canonical, feeds, tmp_path)
        for model in (graph, *(edited(graph, add_rounding_noise(seed)) for seed in (1, 1, 2)))
    )
    assert np.array_equal(one, again)
    if form == "float":  # a tiny int8 model has few values near a rounding boundary
        assert not np.array_equal(one, plain) and not np.array_equal(one, other)
    # Two layers of a float model pass a last bit on; rounding flips make it steps of 6/255 at most here.
    assert np.abs(one - plain).max() < (1e-5 if form == "float" else 0.2) * np.abs(plain).max()


@pytest.mark.parametrize("opset", [17, 22])
def test_no_value_moves_by_more_than_a_last_bit_of_the_largest(opset: int, tmp_path: Path) -> None:
    import onnxruntime

    x = ir.Value(name="x", shape=ir.Shape([1, 1000]), type=ir.TensorType(ir.DataType.FLOAT))
    scale = ir.Value(name="s", const_value=ir.tensor(np.float32(0.1), name="s"))
    zero = ir.Value(name="z", const_value=ir.tensor(np.uint8(128), name="z"))
    node = ir.node("QuantizeLinear", [x, scale, zero], name="q")
    node.outputs[0].name, node.outputs[0].type = "y", ir.TensorType(ir.DataType.UINT8)
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[scale, zero], opset_imports={"": opset})
    noisy = edited(ir.Model(graph, ir_version=10), add_rounding_noise(3))
    added = [node for node in noisy.graph if node.op_type == "Add"][-1].outputs[0]
    noisy.graph.outputs.append(added)
    ir.save(noisy, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    values = np.random.default_rng(0).uniform(-7, 7, (1, 1000)).astype(np.float32)
    moved = session.run([str(added.name)], {"x": values})[0].astype(np.float64) - values
    largest = np.abs(values).max()
    # The sum itself is rounded to float32: half a last bit more.
    assert np.abs(moved).max() <= 1.5 * LAST_BIT * largest
    assert np.abs(moved).max() > 0.5 * LAST_BIT * largest
    # Up and down alike, and not always by the same.
    assert 0.3 < (moved > 0).sum() / (moved != 0).sum() < 0.7 and len(np.unique(moved)) > 5
