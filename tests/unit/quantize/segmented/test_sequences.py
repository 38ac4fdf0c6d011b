"""A decoder run a segment at a time computes what a session over the whole graph computes."""

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.exporters.causal_lm import load_language_model
from edgeq.quantize.segmented import run_sequences
from edgeq.quantize.segmented.sequences import Chunk, in_chunks
from edgeq.quantize.segmented.walk import Walk
from edgeq.runtime.generation.session import DecoderSession

pytest.importorskip("onnxruntime_genai")

IDS = np.random.default_rng(0).integers(0, 288, 24)
CLOSE = 2e-5
"""Of the largest logit: ONNX Runtime fuses across what is a border here, and sums in another order."""


@pytest.fixture(
    scope="module",
    params=[("llama", {}), ("llama", {"tie_word_embeddings": True}), ("gemma2", {}), ("gpt2", {})],
    ids=str,
)
def exported(request, tiny_decoder):
    family, config = request.param
    return load_language_model(tiny_decoder(family, **config))


@pytest.fixture(scope="module")
def whole(exported, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "model.onnx"
    ir.save(exported.canonical.model, path)
    session = DecoderSession(path, exported.settings.cache, exported.settings.context_length)
    return session.logits(IDS)


def distance(found, expected):
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("segment_bytes", [1, 40_000, 1 << 30])
def test_a_sequence_in_one_go_and_over_the_cache(exported, whole, segment_bytes):
    chunks = [Chunk(IDS), *in_chunks(IDS, [9, 1, 5, 1])]
    first, *pieces = (
        values["logits"][0]
        for values in run_sequences(exported.canonical.model, chunks, segment_bytes=segment_bytes)
    )
    assert len(pieces) == 5
    assert distance(first, whole) < CLOSE
    assert distance(np.concatenate(pieces), whole) < CLOSE
    # The same comparison sees one token at another place.
    assert distance(first[:-1], whole[1:]) > 0.1


def test_a_changed_weight_shows(exported, whole):
    graph = exported.canonical.model.clone()
    value = next(value for value in graph.graph.initializers.values() if value.const_value.size == 64)
    value.const_value = ir.tensor(value.const_value.numpy() * np.float32(1.01), name=value.name)
    (found,) = run_sequences(graph, [Chunk(IDS)], segment_bytes=1)
    assert distance(found["logits"][0], whole) > 10 * CLOSE


def test_segments_hold_no_more_weights_than_asked_for(exported):
    walk = Walk(exported.canonical.model, outputs=["logits"], segment_bytes=40_000)
    few = len(list(walk.segments(0, walk.end)))
    many = len(
        list(Walk(exported.canonical.model, outputs=["logits"], segment_bytes=1).segments(0, walk.end))
    )
    assert 3 < few < many
