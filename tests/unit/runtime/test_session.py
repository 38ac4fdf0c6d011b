from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.errors import DataError, ModelError
from edgeq.runtime.session import Signature, VariantSession
from edgeq.samples import as_samples
from edgeq.types import Role, TensorSpec

# The graph averages at most 8 float32 values of size 1 to 3: a handful of roundings of 2**-24 each.
ATOL = 2e-6


@pytest.fixture(params=[False, True], ids=["free", "static"])
def session(request: pytest.FixtureRequest, tiny: Any, tmp_path: Path) -> VariantSession:
    path = tmp_path / "model.onnx"
    tiny.write_graph(path, static=request.param)
    return VariantSession(path, Signature(*tiny.signature(static=request.param)), threads=1)


def _static(tiny: Any, tmp_path: Path) -> VariantSession:
    path = tmp_path / "model.onnx"
    tiny.write_graph(path, static=True)
    return VariantSession(path, Signature(*tiny.signature(static=True)), threads=1)


@pytest.mark.parametrize(
    "samples", [["b"], ["the cat sat", "a dog ran the cats", "b"], ["the cat the dog the b"]]
)
def test_any_batch_and_length_whatever_the_graph_declares(
    tiny: Any, session: VariantSession, samples: list[str]
) -> None:
    feeds = tiny.preprocessor()(as_samples(samples))
    ids, mask = feeds["input_ids"], feeds["attention_mask"]
    outputs = session.run(feeds)
    np.testing.assert_allclose(outputs["sentence_embedding"], tiny.expected_embedding(ids, mask), atol=ATOL)
    rows = outputs["last_hidden_state"]
    assert rows.shape == (*ids.shape, tiny.table.shape[1])
    np.testing.assert_array_equal(rows, tiny.table[ids] * mask[:, :, None].astype(np.float32))


def test_the_comparison_can_fail(tiny: Any, session: VariantSession) -> None:
    feeds = tiny.preprocessor()(as_samples(["the cat sat"]))
    wrong = {**feeds, "input_ids": feeds["input_ids"][:, ::-1] * 0 + 4}
    difference = session.run(wrong)["sentence_embedding"] - session.run(feeds)["sentence_embedding"]
    assert np.abs(difference).max() > 100 * ATOL


def test_padding_uses_the_models_own_padding_token(tiny: Any, tmp_path: Path) -> None:
    """A model that reads its padding (RoBERTa counts positions by it) must see the right token."""
    path = tmp_path / "model.onnx"
    tiny.write_graph(path, static=True)
    signature = Signature(*tiny.signature(static=True))
    seen: list[np.ndarray] = []
    session = VariantSession(path, signature, pad_id=1)
    run_once = session._run_once
    session._run_once = lambda feeds: (seen.append(feeds["input_ids"]), run_once(feeds))[1]  # type: ignore[method-assign,func-returns-value]
    session.run({"input_ids": np.array([[2, 5, 3]]), "attention_mask": np.ones((1, 3), np.int64)})
    assert seen[0].tolist() == [[2, 5, 3, 1, 1, 1, 1, 1]]
    assert seen[0].dtype == np.int32


def test_static_length_is_known_and_too_long_is_refused(tiny: Any, tmp_path: Path) -> None:
    session = _static(tiny, tmp_path)
    assert session.static_length == tiny.static_length
    feeds = {name: np.ones((1, 9), np.int64) for name in ("input_ids", "attention_mask")}
    with pytest.raises(DataError, match="has 9 tokens; this variant takes 8"):
        session.run(feeds)


def test_feeds_are_checked(tiny: Any, session: VariantSession) -> None:
    good = tiny.preprocessor()(as_samples(["the cat"]))
    ids, mask = good["input_ids"], good["attention_mask"]
    for feeds, message in (
        ({"input_ids": ids}, "missing inputs attention_mask; got input_ids"),
        ({**good, "extra": ids}, "no input `extra`; it takes input_ids, attention_mask"),
        ({**good, "token_type_ids": np.ones_like(ids)}, "no input `token_type_ids`"),
        ({"input_ids": ids[0], "attention_mask": mask}, r"has shape \[4\]"),
        ({"input_ids": ids, "attention_mask": mask[:, :2]}, "share one batch size and length"),
        ({"input_ids": ids[:, :0], "attention_mask": mask[:, :0]}, "at least 1"),
        ({"input_ids": ids[:0], "attention_mask": mask[:0]}, "at least 1"),
    ):
        with pytest.raises(DataError, match=message):
            session.run(feeds)
    # All zeros change nothing in a graph that has folded them away.
    same = session.run({**good, "token_type_ids": np.zeros_like(ids)})
    np.testing.assert_array_equal(same["sentence_embedding"], session.run(good)["sentence_embedding"])


def test_ids_that_overflow_the_declared_type_are_refused(tiny: Any, tmp_path: Path) -> None:
    feeds = {"input_ids": np.array([[2**32 + 4]]), "attention_mask": np.ones((1, 1), np.int64)}
    with pytest.raises(DataError, match="int32 cannot"):
        _static(tiny, tmp_path).run(feeds)


def test_ids_outside_the_vocabulary_fail_with_the_shapes(tiny: Any, session: VariantSession) -> None:
    feeds = {"input_ids": np.array([[999]]), "attention_mask": np.ones((1, 1), np.int64)}
    with pytest.raises(ModelError, match="failed on inputs"):
        session.run(feeds)


def test_files_that_do_not_load(tiny: Any, tmp_path: Path) -> None:
    signature = Signature(*tiny.signature(static=False))
    path = tmp_path / "model.onnx"
    with pytest.raises(ModelError, match="there is no model"):
        VariantSession(path, signature)
    tiny.write_graph(path, static=False)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match="cannot load"):
        VariantSession(path, signature)


def test_a_manifest_that_declares_something_else_is_refused(tiny: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    tiny.write_graph(path, static=False)
    inputs, outputs = tiny.signature(static=False)
    with pytest.raises(ModelError, match="the inputs of"):
        VariantSession(path, Signature((replace(inputs[0], dtype="int32"), inputs[1]), outputs))
    with pytest.raises(ModelError, match="the outputs of"):
        VariantSession(path, Signature(inputs, outputs[:1]))


def test_inputs_that_are_not_sequences_keep_their_size(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    shape = (1, 3, 2, 2)
    graph = helper.make_graph(
        [helper.make_node("Neg", ["pixel_values"], ["logits"])],
        "image",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    spec = TensorSpec("pixel_values", "float32", shape, Role.PIXEL_VALUES)
    session = VariantSession(
        tmp_path / "model.onnx", Signature((spec,), (TensorSpec("logits", "float32", shape, Role.LOGITS),))
    )
    images = np.arange(36, dtype=np.float32).reshape(3, 3, 2, 2)
    np.testing.assert_array_equal(session.run({"pixel_values": images})["logits"], -images)
    with pytest.raises(DataError, match="expected"):
        session.run({"pixel_values": images[:, :, :1]})
