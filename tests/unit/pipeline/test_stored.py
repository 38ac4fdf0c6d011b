"""Taking over: every quantized weight has to be found again, or the export stops."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.errors import UnsupportedError
from edgeq.exporters.base import ModelFacts
from edgeq.pipeline.planning import plan_export
from edgeq.pipeline.precision import recipe_named
from edgeq.pipeline.request import ExportRequest
from edgeq.pipeline.stored import compared_with, is_calibrated, say_growth, take_over
from edgeq.pipeline.weight_jobs import weight_jobs
from edgeq.progress import SilentProgress
from edgeq.quantize.checkpoint_codes import PackedTensor, PackedWeights
from edgeq.quantize.formats import Blocks, Stored
from edgeq.quantize.layers import find_layers
from edgeq.quantize.recipes import LayerSpec
from edgeq.quantize.weight_only import quantize
from edgeq.types import Task

RNG = np.random.default_rng(4)
STORED = LayerSpec("stored")


def quantized():
    return quantize("rtn", RNG.normal(0, 0.05, (64, 96)).astype(np.float32), Blocks(4, 32))


def graph_of(**weights):
    """`y = x @ first`, `z = x @ second` ..."""
    kind = ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="x", shape=ir.Shape(["n", 64]), type=kind)
    nodes, constants = [], []
    for name, dense in weights.items():
        tensor = ir.tensor(dense, name=f"{name}.weight")
        constants.append(
            ir.Value(name=tensor.name, shape=ir.Shape(dense.shape), type=kind, const_value=tensor)
        )
        node = ir.node("MatMul", [x, constants[-1]], name=name)
        node.outputs[0].name, node.outputs[0].type = f"{name}_out", kind
        node.outputs[0].shape = ir.Shape(["n", dense.shape[1]])
        nodes.append(node)
    outputs = [node.outputs[0] for node in nodes]
    graph = ir.Graph([x], outputs, nodes=nodes, initializers=constants, opset_imports={"": 20}, name="g")
    return ir.Model(graph, ir_version=10)


def taken(model, packed, spec_of=None):
    layers = find_layers(model)
    specs = {ref.name: (spec_of or {}).get(ref.name, STORED) for ref in layers.refs}
    jobs = weight_jobs(layers, specs, Stored)
    return take_over(model, layers, specs, jobs, packed, is_lossy=False, progress=SilentProgress())


@pytest.fixture
def parts():
    weights = {"first": quantized(), "second": quantized()}
    packed = PackedWeights("gptq-4bit")
    for name, weight in weights.items():
        packed.add(PackedTensor(name, "GPTQ", lambda weight=weight: weight), weight.dequantize().T)
    return weights, packed


def test_codes_are_the_checkpoints_and_the_rest_stays_in_float(parts):
    weights, packed = parts
    half = RNG.normal(size=(64, 32)).astype(np.float16).astype(np.float32)
    model = graph_of(**{name: weight.dequantize() for name, weight in weights.items()}, third=half)
    found = taken(model, packed)
    assert {layer.decision.name: layer.decision.weight_error for layer in found.layers} == {
        "first": 0,
        "second": 0,
    }
    np.testing.assert_array_equal(found.layers[0].weight.q, weights["first"].q)
    assert found.specs["third"] == LayerSpec("fp16")


def test_a_weight_that_the_graph_changed_stops_the_export(parts):
    weights, packed = parts
    dense = {name: weight.dequantize() for name, weight in weights.items()}
    dense["second"][:, 3] *= np.float32(1.5)
    with pytest.raises(
        UnsupportedError, match=r"1 quantized weights .* not in the graph as they are, first `second`"
    ):
        taken(graph_of(**dense), packed)


def test_a_recipe_may_want_only_some_of_them(parts):
    weights, packed = parts
    dense = {name: weight.dequantize() for name, weight in weights.items()}
    found = taken(graph_of(**dense), packed, {"second": LayerSpec("weight-only", 8, 32, True, "rtn")})
    assert [layer.decision.name for layer in found.layers] == ["first"]


def facts(path, label):
    return ModelFacts("model", path, "llama", Task.TEXT_GENERATION, (), None, label)


def test_what_figures_are_against(tmp_path):
    assert compared_with(facts(tmp_path, None)) == "the original"
    assert compared_with(facts(tmp_path, "gguf-q4_k_m")).startswith("the gguf-q4_k_m checkpoint itself")


def test_growth_is_said(tmp_path):
    class Notices(SilentProgress):
        def __init__(self):
            self.said = []

        def notice(self, message):
            self.said.append(message)

    path, said = tmp_path / "model.gguf", Notices()
    path.write_bytes(bytes(1_900_000))
    stored, anew = recipe_named("stored"), recipe_named("int4")
    say_growth(facts(path, "gguf-q4_k_m"), stored, 1_900_000, said)
    say_growth(facts(path, None), anew, 2_600_000, said)
    assert said.said == []
    say_growth(facts(path, "gguf-q4_k_m"), stored, 2_600_000, said)
    assert "the model takes 2.6 MB, the checkpoint 1.9 MB: ONNX Runtime computes in 4" in said.said[0]
    say_growth(facts(path, "gguf-q4_k_m"), anew, 2_600_000, said)
    assert said.said[1] == "the model takes 2.6 MB, the checkpoint 1.9 MB"


@pytest.mark.parametrize(
    ("target", "precision", "used"),
    [("cpu", "fp16", False), ("cpu", "int4", True), ("gguf", "f16", False), ("gguf", "q4_k_m", True)],
)
def test_whether_texts_calibrate(tiny_decoder, tmp_path, target, precision, used):
    request = ExportRequest(
        str(tiny_decoder("llama")), (target,), recipe_named(precision), output=tmp_path / "out"
    )
    assert is_calibrated(plan_export(request)) is used
