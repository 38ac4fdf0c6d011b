"""One layer at a time: what the shell runs, what is ranked, and which cause is named."""

from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.processors.text_padding import TEXT_PADDING
from edgeq.quantize.layers import find_layers, layer_weight
from edgeq.quantize.observers.tensor import tensor_statistics
from edgeq.quantize.plan import LinearDecision
from edgeq.quantize.sensitivity import (
    Candidate,
    LayerCauses,
    LayerEffect,
    Prober,
    causes_of,
    channel_ratio,
    explain,
    kurtosis,
    loss_of,
    measure,
    rank,
)
from edgeq.quantize.shell import Shell
from edgeq.tasks import TASKS, Head, Kind
from edgeq.types import Role, TensorSpec

OUTPUT = TensorSpec("y", "float32", ("batch", 8), Role.SENTENCE_EMBEDDING)
EMBEDDER = Head(TASKS[Kind.EMBEDDING], (OUTPUT,))
RNG = np.random.default_rng(5)
W1 = RNG.standard_normal((8, 8)).astype(np.float32)
W2 = RNG.standard_normal((8, 8)).astype(np.float32)
BIAS = RNG.standard_normal(8).astype(np.float32)


def graph():
    """y = relu(x @ W1 + bias) @ W2^T, the second product a Gemm with transB."""
    text = """
<ir_version: 10, opset_import: ["": 20]>
g (float[batch, 8] x) => (float[batch, 8] y)
{
  [first] p = MatMul(x, w1)
  [add] q = Add(p, bias)
  [relu] r = Relu(q)
  [second] y = Gemm <transB = 1> (r, w2)
}
"""
    model = ir.from_onnx_text(text)
    for name, array in (("w1", W1), ("w2", W2), ("bias", BIAS)):
        value = next(v for node in model.graph for v in node.inputs if v is not None and v.name == name)
        value.const_value = ir.tensor(array, name=name)
        value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.FLOAT)
        model.graph.register_initializer(value)
    return model


@pytest.fixture
def feeds():
    return {"x": np.random.default_rng(1).standard_normal((16, 8)).astype(np.float32)}


@pytest.fixture
def shell():
    model = graph()
    return Shell(model, find_layers(model), ["y"])


def expected(x, first=W1, second=W2):
    return np.maximum(x @ first + BIAS, 0) @ second.T


def test_the_shell_computes_the_graph(shell, feeds):
    found = shell.run(shell.session(), feeds)["y"]
    np.testing.assert_allclose(found, expected(feeds["x"]), rtol=1e-5, atol=1e-5)  # float32 sums of 8


def test_a_changed_weight_is_used_in_the_graphs_orientation(shell, feeds):
    other = RNG.standard_normal((8, 8)).astype(np.float32)
    session = shell.session()
    first = shell.run(session, feeds, {"first": other})["y"]
    np.testing.assert_allclose(first, expected(feeds["x"], first=other), rtol=1e-5, atol=1e-5)
    second = shell.run(session, feeds, {"second": other})["y"]
    np.testing.assert_allclose(second, expected(feeds["x"], second=other.T), rtol=1e-5, atol=1e-5)
    assert not np.allclose(second, expected(feeds["x"], second=other))


def test_a_static_input_is_rounded_in_its_range(shell, feeds):
    decision = LinearDecision("first", True, "quantized", (-1.0, 1.0), np.zeros(8), np.zeros(8))
    found = shell.run(shell.session([decision]), feeds)["y"]
    clipped = np.clip(feeds["x"], -1, 1)
    # Half a step of 2/255 per input, through two matrices of norm below 8 each.
    np.testing.assert_allclose(found, expected(clipped), atol=64 * 2 / 255)
    assert np.abs(found - expected(feeds["x"])).max() > np.abs(found - expected(clipped)).max()


def test_a_bias_shift_is_added(shell, feeds):
    shift = np.full(8, 0.5, np.float32)
    wide = LinearDecision("first", True, "quantized", (-8.0, 8.0), np.zeros(8), np.zeros(8), shift)
    found = shell.run(shell.session([wide]), feeds)["y"]
    shifted = np.maximum(feeds["x"] @ W1 + BIAS + shift, 0) @ W2.T
    assert np.abs(found - shifted).mean() < np.abs(found - expected(feeds["x"])).mean()


def test_the_layer_with_the_larger_error_is_ranked_first(shell, feeds):
    prober = Prober(shell, EMBEDDER, [feeds], padding=TEXT_PADDING)
    model = graph()
    layers = find_layers(model)
    weights = {site.name: layer_weight(model, site) for site in layers.sites.linears}
    noise = np.random.default_rng(2).standard_normal((8, 8)).astype(np.float32)
    candidates = [
        Candidate("first", "int8", weights["first"] + 0.001 * noise),
        Candidate("second", "int4", weights["second"] + 0.1 * noise),
    ]
    effects = measure(prober, candidates, lambda item: causes_of(weights[item.name], item))
    assert [effect.name for effect in effects] == ["second", "first"]
    assert effects[0].loss == pytest.approx(1 - effects[0].cosine)
    assert prober.loss([]) < 1e-9
    assert prober.loss(candidates) > effects[1].loss


def test_effects_survive_json(shell, feeds):
    effect = Prober(shell, EMBEDDER, [feeds], padding=TEXT_PADDING).effect(
        Candidate("first", "int4", W1 * 0.9), LayerCauses(20.0, 3.0)
    )
    assert LayerEffect.from_json(json.loads(json.dumps(effect.to_json()))) == effect


def head(kind, width):
    return Head(TASKS[kind], (TensorSpec("y", "float32", ("b", width), Role.LOGITS),))


def test_logits_are_judged_by_divergence():
    vector, number = head(Kind.SINGLE_LABEL, 2), head(Kind.SCORE, 1)
    assert loss_of([{"kl_mean": 0.25, "cosine_mean": 0.5}], vector) == 0.25
    assert loss_of([{"cosine_mean": 0.75}], vector) == 0.25
    assert loss_of([{"cosine_mean": 1.0, "sqnr_db": 10.0}], number) == pytest.approx(0.05)


@pytest.mark.parametrize("kind", [Kind.MULTI_LABEL, Kind.SCORE])
def test_numbers_that_are_read_one_by_one_are_not_judged_by_a_softmax(kind, shell, feeds):
    """Moved all alike, every label and score is wrong, and a softmax over them is as it was."""
    effects = {}
    for name in (kind, Kind.SINGLE_LABEL):
        prober = Prober(shell, head(name, 8), [feeds], padding=TEXT_PADDING)
        prober.expected = [{"y": outputs["y"] + 2} for outputs in prober.expected]
        effects[name] = prober.effect(Candidate("first", "int4", W1), LayerCauses(20.0, 3.0))
    assert effects[Kind.SINGLE_LABEL].loss < 1e-6 and effects[Kind.SINGLE_LABEL].loss_name == "KL divergence"
    assert effects[kind].kl is None and effects[kind].loss_name == "noise / signal / 2"
    assert effects[kind].loss > 0.01
    assert effects[kind].loss == pytest.approx(10 ** (-effects[kind].sqnr_db / 10) / 2)


def test_equal_losses_are_ranked_by_name():
    causes = LayerCauses(1.0, 1.0)
    effects = [LayerEffect(name, "f", 0.1, 0.9, 0.1, 10, None, causes, "") for name in ("b", "a")]
    assert [effect.name for effect in rank(effects)] == ["a", "b"]


def test_kurtosis_of_known_distributions():
    values = np.random.default_rng(0).standard_normal((20000, 4)).astype(np.float32)
    # Standard error of the kurtosis of 80,000 normal values: sqrt(24 / 80000) = 0.017.
    assert kurtosis(tensor_statistics(values).histogram) == pytest.approx(3, abs=0.1)
    assert kurtosis(tensor_statistics(np.full((10, 2), 3.0, np.float32)).histogram) == 0
    values[0, 0] = 100
    assert kurtosis(tensor_statistics(values).histogram) > 100


def test_channel_ratio():
    assert channel_ratio(np.array([1.0, 2.0, 50.0])) == 25
    assert channel_ratio(np.zeros(4)) == 1


def test_causes_are_named():
    x = np.random.default_rng(0).standard_normal((500, 8)).astype(np.float32)
    x[:, 3] *= 100
    decision = LinearDecision("first", True, "quantized", (-50.0, 50.0), np.zeros(8), np.zeros(8))
    static = causes_of(W1, Candidate("first", "static int8", W1 * 0.99, decision), tensor_statistics(x))
    text = explain(static)
    assert "outlier channels" in text
    assert "clipped" in text
    assert "40.0 dB" in text  # 1 % error everywhere
    calm = causes_of(W1, Candidate("first", "int8", W1 * 0.99), tensor_statistics(x[:, [0, 1, 2]]))
    assert explain(calm) == "weights at 40.0 dB"


def test_a_weight_of_zeros_has_causes():
    zeros = np.zeros((8, 8), np.float32)
    assert causes_of(zeros, Candidate("first", "int4", zeros)).weight_peak == 0
