"""Taking models in: free dimensions, Constants, external data, files that are no models, size and speed."""

from __future__ import annotations

import sys
import time

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeq.errors import ConfigError, MissingExtraError, ModelError
from edgeq.targets.placement import predict
from edgeq.targets.placement.fix_dims import free_dims
from edgeq.targets.placement.optimized import HOLLOW_BYTES, optimize_level_1
from edgeq.targets.placement.read_model import load_proto, read_graph

F, I64 = np.float32, np.int64


def dynamic(builder):
    build = builder()
    build.node("Gemm", [f"={build.node('Tanh', ['f32[rows,3]'])}", np.ones((3, 4), F)])
    return build.model()


def test_dimensions_are_fixed_by_name_and_the_model_is_left_alone(builder):
    model = dynamic(builder)
    before = model.SerializeToString()
    assert free_dims(model) == ("rows",)
    assert predict(model, target="android", optimized=False).taken == 0
    report = predict(model, target="android", dims={"rows": 2})
    assert report.is_full
    assert model.SerializeToString() == before


def test_unknown_dimension_names_the_known_ones(builder):
    with pytest.raises(ConfigError, match="no free dimension `row`; they have: `rows`") as caught:
        predict(dynamic(builder), target="android", dims={"row": 2})
    assert caught.value.hint == "did you mean --dim rows=2?"
    with pytest.raises(ConfigError, match="expected at least 1"):
        predict(dynamic(builder), target="android", dims={"rows": 0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "ios"}, "unknown target `ios`, expected one of: android, coreml"),
        ({"target": "coreml", "coreml_format": "MIL"}, "unknown Core ML format"),
        ({"target": "android", "onnxruntime_release": "1.0"}, "unknown ONNX Runtime release"),
    ],
)
def test_unknown_options(builder, options, message):
    with pytest.raises(ConfigError, match=message):
        predict(dynamic(builder), **options)


def test_light_install_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match="needs the `export` extra"):
        predict("model.onnx", target="android")


def test_constant_nodes_count_as_initializers(builder):
    build = builder()
    shape = build.node("Constant", [], value_ints=[3, 2])
    scale = build.node("Constant", [], value=numpy_helper.from_array(F(2)))
    build.node("Mul", [f"={build.node('Reshape', ['f32[2,3]', f'={shape}'])}", f"={scale}"])
    report = predict(build.model(), target="android", optimized=False)
    assert (report.nodes, report.taken) == (2, 2)


def test_overridable_initializer_is_no_constant(builder):
    build = builder()
    weight = build.value(np.ones((3, 4), F))
    build.node("Gemm", ["f32[2,3]", f"={weight}"])
    model = build.model()
    assert predict(model, target="android", optimized=False).as_shipped.is_full
    model.graph.input.append(helper.make_tensor_value_info(weight, TensorProto.FLOAT, [3, 4]))
    refused = predict(model, target="android", optimized=False).refused
    assert refused[0].reason == "B must be a constant when transB=0"


def test_local_functions_are_inlined(builder):
    build = builder()
    build.node("Twice", ["f32[2]"], domain="mine")
    model = build.model()
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("Twice_0.0", TensorProto.FLOAT, [2]))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    body = [helper.make_node("Tanh", ["a"], ["b"]), helper.make_node("Tanh", ["b"], ["c"])]
    model.functions.append(helper.make_function("mine", "Twice", ["a"], ["c"], body, model.opset_import))
    report = predict(model, target="android", optimized=False)
    assert (report.nodes, report.taken) == (2, 2)


def test_shapes_behind_contrib_operators_come_from_the_runtime(builder):
    build = builder()
    build.node("Tanh", [f"={build.node('QuickGelu', ['f32[2,3]'], domain='com.microsoft', alpha=1.7)}"])
    report = predict(build.model(), target="android", optimized=False)
    assert report.as_shipped.partition_nodes == (("Tanh_1",),)


def external_model(folder, builder):
    build = builder()
    weight = build.value(np.ones((3, 4), F))
    build.node("Gemm", ["f32[2,3]", f"={weight}"])
    path = folder / "model.onnx"
    onnx.save(build.model(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    return path


def test_external_weights_are_checked_but_not_loaded(tmp_path, builder):
    path = external_model(tmp_path, builder)
    assert predict(path, target="android").is_full
    old = predict(path, target="android", onnxruntime_release="1.21", optimized=False)
    assert "stored as external data" in old.refused[0].reason
    data = (tmp_path / "w.bin").read_bytes()
    (tmp_path / "w.bin").write_bytes(data[:-1])
    with pytest.raises(ModelError, match="end at byte 48 of 47"):
        predict(path, target="android")
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ModelError, match=r"weights in `w\.bin` are missing"):
        predict(path, target="android")


def test_external_data_may_not_leave_the_folder(tmp_path, builder):
    path = external_model(tmp_path, builder)
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "../w.bin"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="unsafe path"):
        load_proto(path)


def test_files_that_are_no_models(tmp_path, builder):
    path = tmp_path / "model.onnx"
    with pytest.raises(ModelError, match="no such model file"):
        predict(path, target="android")
    whole = dynamic(builder).SerializeToString()
    for content in (b"", b"not a model", whole[: len(whole) // 2], b"\x00" * 64):
        path.write_bytes(content)
        with pytest.raises(ModelError, match="complete ONNX model"):
            predict(path, target="android")


@settings(max_examples=100, deadline=None)
@given(cut=st.integers(0, 400), noise=st.binary(max_size=20))
def test_any_damaged_file_gives_a_model_error_or_a_report(tmp_path_factory, cut, noise):
    graph = helper.make_graph(
        [helper.make_node("Tanh", ["x"], ["y"]), helper.make_node("Add", ["y", "c"], ["z"])],
        "g",
        [helper.make_tensor_value_info("x", 1, [2])],
        [helper.make_tensor_value_info("z", 1, [2])],
        [numpy_helper.from_array(F([1, 2]), "c")],
    )
    whole = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    path = tmp_path_factory.mktemp("damaged") / "model.onnx"
    path.write_bytes(whole[:cut] + noise)
    try:
        report = predict(path, target="android", optimized=False)
    except ModelError:
        return
    assert report.taken <= report.nodes


def test_cycle_and_double_producer_are_errors():
    inputs = [helper.make_tensor_value_info("x", 1, [2])]
    outputs = [helper.make_tensor_value_info("a", 1, [2])]

    def graph(*nodes):
        proto = helper.make_graph([helper.make_node(*node) for node in nodes], "g", inputs, outputs)
        return helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)])

    with pytest.raises(ModelError, match="cycle"):
        read_graph(graph(("Add", ["x", "b"], ["a"]), ("Tanh", ["a"], ["b"])))
    with pytest.raises(ModelError, match="two producers"):
        read_graph(graph(("Tanh", ["x"], ["a"]), ("Relu", ["x"], ["a"])))


def test_model_above_2_gb_is_checked_without_its_weights(tmp_path):
    """3 GB of weights in a sparse file: nothing reads them."""
    rows, layers = 16384, 3
    size = rows * rows * 4
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(size * layers)
    weights = []
    for index in range(layers):
        tensor = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=[rows, rows])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "w.bin"), ("offset", str(index * size)), ("length", str(size))):
            tensor.external_data.add(key=key, value=value)
        weights.append(tensor)
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(layers)]
    ends = [helper.make_tensor_value_info(name, 1, [1, rows]) for name in ("x0", f"x{layers}")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    path = tmp_path / "model.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    )
    report = predict(path, target="android")
    assert report.optimized is not None
    for form in (report.as_shipped, report.optimized):
        assert (form.nodes, form.taken, form.partitions) == (3, 3, 1)


def test_large_weights_are_hollow_for_the_optimizer(builder):
    build = builder()
    side = int((HOLLOW_BYTES / 4) ** 0.5)
    build.node("MatMul", [f"f32[1,{side}]", np.full((side, side), 7, F)])
    optimized = optimize_level_1(build.model(), None)
    assert [node.op_type for node in optimized.graph.node] == ["MatMul"]
    assert optimized.ByteSize() < HOLLOW_BYTES // 4


def test_a_model_the_runtime_refuses_is_still_predicted_as_shipped(builder):
    build = builder()
    build.node("Tanh", ["f32[2]"])
    build.node("Mystery", ["f32[2]"], domain="com.unheard")
    model = build.model("Tanh_0.0")
    model.opset_import.append(helper.make_opsetid("com.unheard", 1))
    report = predict(model, target="android")
    assert report.taken == 1
    assert report.optimized is None
    assert "cannot load the model" in report.to_json()["optimized_skipped"]


@pytest.mark.parametrize("target", ["android", "coreml"])
def test_ten_thousand_nodes_in_under_5_seconds(target):
    nodes, x = [], "x"
    for index in range(2500):
        for op, inputs in (("Add", [x, "c"]), ("Relu", [f"Add{index}"]), ("Erf", [f"Relu{index}"])):
            nodes.append(helper.make_node(op, inputs, [f"{op}{index}"], f"{op}{index}"))
        nodes.append(helper.make_node("Mul", [f"Relu{index}", f"Erf{index}"], [f"Mul{index}"], f"Mul{index}"))
        x = f"Mul{index}"
    ends = [helper.make_tensor_value_info(name, 1, [4, 8]) for name in ("x", x)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(np.ones(8, F), "c")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    started = time.process_time()  # CPU time: other work on the machine must not fail the test
    report = predict(model, target=target)  # both forms, the optimizer included
    seconds = time.process_time() - started
    assert (report.nodes, report.partitions) == (10_000, 2501 if target == "android" else 1)
    assert seconds < 5
