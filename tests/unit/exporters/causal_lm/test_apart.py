"""Models exported, and originals run, in a process of their own."""

import os
import signal

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.errors import ConfigError, ModelError
from edgeq.exporters.causal_lm import load_language_model
from edgeq.graph import streamed_tensor
from edgeq.quantize.streaming.transport import pack_graph

pytest.importorskip("onnxruntime_genai")

IDS = np.random.default_rng(0).integers(0, 288, (1, 20))


def bytes_of(model):
    return ir.to_proto(model).SerializeToString(deterministic=True)


@pytest.fixture(scope="module")
def here(tiny_decoder):
    return load_language_model(tiny_decoder("llama"))


@pytest.fixture
def apart(tiny_decoder, monkeypatch):
    monkeypatch.setattr(streamed_tensor, "HELD_BYTES", 0)
    found = load_language_model(tiny_decoder("llama"))
    yield found
    found.rest()


def test_the_same_model(here, apart):
    assert bytes_of(apart.canonical.model) == bytes_of(here.canonical.model)
    assert apart.canonical.inputs == here.canonical.inputs and apart.settings == here.settings
    assert apart.source == here.source and apart.genai_config == here.genai_config
    expected = here.reference(IDS)
    assert np.array_equal(apart.reference(IDS), expected)
    apart.rest()
    assert np.array_equal(apart.reference(IDS), expected)
    assert not np.array_equal(apart.reference(IDS[:, ::-1]), expected)


def test_errors_come_through_with_their_hints(tiny_decoder, monkeypatch):
    monkeypatch.setattr(streamed_tensor, "HELD_BYTES", 0)
    with pytest.raises(ConfigError, match="--seq-len 5000 does not fit") as caught:
        load_language_model(tiny_decoder("llama"), context=5000)
    assert caught.value.hint == "--seq-len 128"


def test_a_killed_process_is_an_error(apart):
    apart.reference(IDS)
    (child,) = apart.reference._children
    os.kill(child._process.pid, signal.SIGKILL)
    with pytest.raises(ModelError, match="ended with status -9") as caught:
        apart.reference(IDS)
    assert "memory" in caught.value.hint


def test_a_packed_graph_is_the_same_graph(here):
    graph = here.canonical.model
    before = bytes_of(graph)
    packed = pack_graph(graph)
    assert len(packed.proto) < len(before) / 4
    assert bytes_of(packed.unpack()) == before == bytes_of(graph)
