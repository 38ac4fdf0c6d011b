import numpy as np
import pytest

from edgeq.errors import DataError, ModelError
from edgeq.runtime.generation.session import PREFILL_CHUNK, DecoderSession
from edgeq.runtime.generation.settings import CacheShape

SHAPE = CacheShape(layers=2, heads=1, size=1)
CONTEXT = 400


@pytest.fixture(scope="module")
def session(counting_model):
    return DecoderSession(counting_model, SHAPE, CONTEXT, threads=1)


def test_tokens_can_be_fed_in_any_pieces(session):
    ids = np.random.default_rng(0).integers(0, 12, 300)
    whole = session.logits(ids)
    for pieces in ([300], [1] * 300, [7, 1, 200, 92]):
        state, parts, at = session.start(), [], 0
        for size in pieces:
            parts.append(session.feed(state, ids[at : at + size]))
            at += size
        np.testing.assert_array_equal(np.concatenate(parts), whole)
        assert state.length == 300


def test_logits_depend_on_the_past(session):
    """The twin of the test above: a cache that got lost would show."""
    state = session.start()
    first = session.feed(state, [3])[-1]
    again = session.feed(state, [3])[-1]
    assert (int(first.argmax()), int(again.argmax())) == (6, 7)


def test_prefill_returns_the_last_row_of_all_chunks(session):
    ids = [5] * (PREFILL_CHUNK + 3)
    last = session.prefill(session.start(), ids)
    assert int(last.argmax()) == (10 + PREFILL_CHUNK + 2) % 12


def test_bytes_per_token():
    # 28 layers, 8 heads of 128, float32, key and value.
    assert CacheShape(28, 8, 128).bytes_per_token == 229_376


def test_a_snapshot_continues_as_if_never_stopped(session):
    state = session.start()
    session.feed(state, [1, 2, 3])
    arrays = session.snapshot(state)
    expected = session.feed(state, [4])
    np.testing.assert_array_equal(session.feed(session.restore(arrays), [4]), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("past_key_values.1.value"), "3 arrays, expected 4"),
        (
            lambda arrays: arrays.update({"past_key_values.0.key": np.zeros((1, 1, 3, 2), np.float32)}),
            r"\[1, 1, 3, 2\]",
        ),
        (
            lambda arrays: arrays.update({"past_key_values.1.key": np.zeros((1, 1, 2, 1), np.float32)}),
            "expected float32",
        ),
        (
            lambda arrays: arrays.update({"past_key_values.0.key": np.zeros((1, 1, 3, 1), np.float64)}),
            "float64",
        ),
        (lambda arrays: arrays.update({"past_key_values.0.key": np.float32(3)}), "expected float32"),
        (lambda arrays: arrays["past_key_values.0.value"].fill(np.nan), "NaN"),
    ],
)
def test_a_corrupted_cache_is_refused(session, change, message):
    state = session.start()
    session.feed(state, [1, 2, 3])
    arrays = session.snapshot(state)
    change(arrays)
    with pytest.raises(DataError, match=message):
        session.restore(arrays)


def test_a_cache_that_is_too_long(session):
    state = session.start()
    session.feed(state, [1, 2, 3])
    with pytest.raises(DataError, match="3 tokens does not fit into 2"):
        session.restore(session.snapshot(state), capacity=2)


def test_feeding_nothing_or_too_much(session):
    state = session.start(2)
    with pytest.raises(DataError, match="no tokens"):
        session.feed(state, [])
    with pytest.raises(DataError, match="3 tokens do not fit a cache of 2"):
        session.feed(state, [1, 2, 3])
    assert state.length == 0
    with pytest.raises(DataError, match="context is 400"):
        session.start(CONTEXT + 1)


def test_another_graph_is_refused(counting_model, tmp_path):
    with pytest.raises(ModelError, match="not a decoder of 3 layers"):
        DecoderSession(counting_model, CacheShape(3, 1, 1), CONTEXT)
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelError, match="cannot load"):
        DecoderSession(tmp_path / "model.onnx", SHAPE, CONTEXT)
    with pytest.raises(ModelError, match="there is no model"):
        DecoderSession(tmp_path / "none.onnx", SHAPE, CONTEXT)
