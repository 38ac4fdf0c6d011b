"""What a model refers to outside itself, found without `onnx` in the bytes that `onnx` wrote."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeq.errors import EdgeqError, IntegrityError, ModelError
from edgeq.onnx_references import check_references, read_references


def model(*nodes: Any, tensors: Any = (), functions: Any = ()) -> Any:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    graph = helper.make_graph(
        list(nodes) or [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [value],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        list(tensors),
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("custom", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions))


def external(location: str, **more: str) -> Any:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def saved(folder: Path, proto: Any) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def in_a_branch(tensor: Any) -> Any:
    inner = helper.make_graph([helper.make_node("Identity", ["w"], ["z"])], "b", [], [], [tensor])
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    return model(node)


def in_a_constant(tensor: Any) -> Any:
    return model(helper.make_node("Constant", [], ["y"], value=tensor))


def in_a_function(tensor: Any) -> Any:
    constant = helper.make_node("Constant", [], ["z"], value=tensor)
    function = helper.make_function("custom", "F", [], ["z"], [constant], [helper.make_opsetid("", 20)])
    return model(helper.make_node("F", [], ["y"], domain="custom"), functions=[function])


def in_the_graph(tensor: Any) -> Any:
    return model(tensors=[tensor])


PLACES = [in_the_graph, in_a_branch, in_a_constant, in_a_function]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("location", "more", "words"),
    [
        ("../w.bin", {}, "unsafe path"),
        ("/etc/passwd", {}, "unsafe path"),
        ("..\\w.bin", {}, "unsafe path"),
        ("nul.bin", {}, "Windows device"),
        ("", {}, "unsafe path"),
        ("none.bin", {}, "are missing"),
        ("link.bin", {}, "lie outside its folder"),
        ("w.bin", {"offset": "8", "length": "16"}, "end at byte 24 of 16"),
        ("w.bin", {"offset": "-1"}, "expected a number"),
        ("w.bin", {"length": "9" * 30}, "expected a number"),
    ],
)
def test_weights_outside_are_refused(
    tmp_path: Path, place: Callable[[Any], Any], location: str, more: dict[str, str], words: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").write_bytes(bytes(16))
    (tmp_path / "w.bin").write_bytes(bytes(16))
    (folder / "link.bin").symlink_to(tmp_path / "w.bin")
    path = saved(folder, place(external(location, **more)))
    with pytest.raises(IntegrityError, match=words):
        check_references(path, IntegrityError)


@pytest.mark.parametrize("place", PLACES)
def test_weights_beside_the_model_are_taken(tmp_path: Path, place: Callable[[Any], Any]) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(16))
    path = saved(tmp_path, place(external("w.bin", offset="0", length="16")))
    check_references(path)
    assert {entry["location"] for entry in read_references(path).external} == {"w.bin"}


def test_a_folder_of_links_as_the_hub_caches_it_is_taken(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "a").write_bytes(bytes(16))
    (blobs / "b").write_bytes(model(tensors=[external("m.bin")]).SerializeToString())
    (snapshot / "m.bin").symlink_to(blobs / "a")
    (snapshot / "m.onnx").symlink_to(blobs / "b")
    check_references(snapshot / "m.onnx")


def test_operators_of_other_libraries_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, model(helper.make_node("Run", ["x"], ["y"], domain="evil")))
    with pytest.raises(ModelError, match="operators of `evil`"):
        check_references(path)
    check_references(path, any_domain=True)
    check_references(saved(tmp_path, model(helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft"))))


def test_damage_is_an_error_of_ours_and_ends(tmp_path: Path) -> None:
    good = in_a_branch(external("w.bin")).SerializeToString()
    (tmp_path / "w.bin").write_bytes(bytes(16))
    path, generator, refused = tmp_path / "m.onnx", random.Random(5), 0
    for _ in range(2000):
        data = bytearray(good[: generator.randrange(1, len(good) + 1)])
        for _ in range(generator.randrange(4)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        path.write_bytes(data)
        try:
            check_references(path)
        except EdgeqError:
            refused += 1
    assert refused > 1000
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="empty"):
        check_references(path)


def test_what_is_read_is_what_onnx_reads(tmp_path: Path) -> None:
    proto = in_a_function(external("w.bin", offset="0"))
    found = read_references(saved(tmp_path, proto))
    assert found.domains == {node.domain for node in proto.graph.node if node.domain}
    assert found.defined == {function.domain for function in proto.functions}
    (tensor,) = [onnx.helper.get_attribute_value(proto.functions[0].node[0].attribute[0])]
    assert found.external == [{entry.key: entry.value for entry in tensor.external_data}]
