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
def sent(tiny_decoder, monkeypatch):
    monkeypatch.setattr(streamed_tensor, "HELD_BYTES", 0)
    found = load_language_model(tiny_decoder("llama"))
    yield found
    found.rest()


def test_the_same_model(here, sent):
    assert bytes_of(sent.canonical.model) == bytes_of(here.canonical.model)
    assert sent.canonical.inputs == here.canonical.inputs and sent.settings == here.settings
    assert sent.source == here.source and sent.genai_config == here.genai_config
    expected = here.reference(IDS)
    assert np.array_equal(sent.reference(IDS), expected)
    sent.rest()
    assert np.array_equal(sent.reference(IDS), expected)
    assert not np.array_equal(sent.reference(IDS[:, ::-1]), expected)


def test_errors_come_through_with_their_hints(tiny_decoder, monkeypatch):
    monkeypatch.setattr(streamed_tensor, "HELD_BYTES", 0)
    with pytest.raises(ConfigError, match="--seq-len 5000 does not fit") as caught:
        load_language_model(tiny_decoder("llama"), context=5000)
    assert caught.value.hint == "--seq-len 128"


def test_a_killed_process_is_an_error(sent):
    sent.reference(IDS)
    (child,) = sent.reference._children
    os.kill(child._process.pid, signal.SIGKILL)
    with pytest.raises(ModelError, match="ended with status -9") as caught:
        sent.reference(IDS)
    assert "memory" in caught.value.hint


def test_a_packed_graph_is_the_same_graph(here):
    graph = here.canonical.model
    before = bytes_of(graph)
    packed = pack_graph(graph)
    assert len(packed.proto) < len(before) / 4
    assert bytes_of(packed.unpack()) == before == bytes_of(graph)
