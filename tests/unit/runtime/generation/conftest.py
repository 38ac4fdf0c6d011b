"""A decoder small enough to follow by hand: each token's logits count the tokens seen so far, by value."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

VOCABULARY = 12


def build_counting_decoder(folder: Path, *, layers: int = 1) -> Path:
    """A graph with the inputs and outputs of a decoder, without attention.

    Key and value hold the token's id as a number; logits after a token are `-(v - (2 * token + seen) % 12)^2` for
    token id `v`, where `seen` is how many tokens came before: they depend on token and on the length of the past.
    """
    import onnx
    from onnx import TensorProto, helper

    node = helper.make_node
    constants = {
        "axes": np.array([1, 3], np.int64),
        "one": np.array(1, np.int64),
        "two": np.array(2, np.int64),
        "last": np.array(-1, np.int64),
        "twelve": np.array(VOCABULARY, np.int64),
        "zero": np.array(0, np.int64),
        "row": np.arange(VOCABULARY, dtype=np.int64).reshape(1, 1, -1),
    }
    nodes = [
        node("Shape", ["past_key_values.0.key"], ["past_shape"]),
        node("Gather", ["past_shape", "two"], ["past"]),
        node("Shape", ["input_ids"], ["ids_shape"]),
        node("Gather", ["ids_shape", "one"], ["sequence"]),
        node("Range", ["zero", "sequence", "one"], ["steps"]),
        node("Add", ["steps", "past"], ["seen"]),
        node("Mul", ["input_ids", "two"], ["doubled"]),
        node("Add", ["doubled", "seen"], ["sum"]),
        node("Mod", ["sum", "twelve"], ["next"]),
        node("Unsqueeze", ["next", "last_axis"], ["next_column"]),
        node("Sub", ["row", "next_column"], ["distance"]),
        node("Mul", ["distance", "distance"], ["square"]),
        node("Neg", ["square"], ["negative"]),
        node("Cast", ["negative"], ["logits"], to=TensorProto.FLOAT),
        node("Cast", ["input_ids"], ["ids_float"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["ids_float", "axes"], ["state"]),
    ]
    constants["last_axis"] = np.array([-1], np.int64)
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"]),
        helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "total"]),
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", VOCABULARY])]
    for layer in range(layers):
        for part in ("key", "value"):
            past, present = f"past_key_values.{layer}.{part}", f"present.{layer}.{part}"
            nodes.append(node("Concat", [past, "state"], [present], axis=2))
            inputs.append(helper.make_tensor_value_info(past, TensorProto.FLOAT, ["batch", 1, "past", 1]))
            outputs.append(helper.make_tensor_value_info(present, TensorProto.FLOAT, ["batch", 1, "all", 1]))
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "counting", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def next_token(token: int, seen: int) -> int:
    """What the counting decoder says comes after `token` with `seen` tokens before it."""
    return (2 * token + seen) % VOCABULARY


@pytest.fixture(scope="session")
def counting_model(tmp_path_factory) -> Path:
    return build_counting_decoder(tmp_path_factory.mktemp("counting"), layers=2)


@pytest.fixture
def tokenizer_json() -> str:
    """Words `t0` ... `t11`, and a byte-level fallback is not needed."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(
        models.WordLevel({f"t{index}": index for index in range(VOCABULARY)}, unk_token="t0")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return json.dumps(json.loads(tokenizer.to_str()))
