"""`edgeq check` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeq.cli import run_command_line as run


@pytest.fixture
def good(tmp_path):
    """Tanh over `[rows, 3]`."""
    return write(tmp_path / "good.onnx", [helper.make_node("Tanh", ["x"], ["y"], "tanh")], ["rows", 3])


@pytest.fixture
def cut(tmp_path):
    """Four times a 3-D MatMul and a Relu."""
    nodes = []
    for index in range(4):
        source = f"r{index - 1}" if index else "x"
        nodes.append(helper.make_node("MatMul", [source, "w"], [f"m{index}"], f"matmul{index}"))
        nodes.append(
            helper.make_node("Relu", [f"m{index}"], ["y" if index == 3 else f"r{index}"], f"relu{index}")
        )
    return write(tmp_path / "cut.onnx", nodes, [1, 4, 3])


def write(path, nodes, shape):
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("x", "y")]
    weight = numpy_helper.from_array(np.ones((3, 3), np.float32), "w")
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    path.write_bytes(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
        ).SerializeToString()
    )
    return str(path)


def test_json_is_the_documented_document(capsys, cut):
    assert run(["check", cut, "--target", "android", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    for form in (document, document["optimized"]):
        assert (form["target"], form["nodes"], form["taken"], form["partitions"]) == ("android", 8, 4, 4)
        assert form["min_android_api"] == 27
        assert form["landmines"] == []
        assert {refused["node"] for refused in form["refused"]} == {f"matmul{index}" for index in range(4)}
        assert set(form["refused"][0]) == {"node", "op", "reason", "fix"}


def test_core_ml_json_names_its_version(capsys, cut):
    assert run(["check", cut, "--target", "coreml", "--json", "--require-full"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["min_coreml"], document["full"]) == (5, True)
    assert "min_android_api" not in document


def test_core_ml_says_that_edgeq_packages_go_another_way(capsys, cut):
    for target, is_said in (("coreml", True), ("android", False)):
        assert run(["check", cut, "--target", target]) == 0
        captured = capsys.readouterr()
        assert ("`edgeq export --target coreml` does without it" in captured.out + captured.err) is is_said


def test_require_full_exits_3(capsys, cut):
    assert run(["check", cut, "--target", "android", "--require-full"]) == 3
    captured = capsys.readouterr()
    assert "4 of 8 nodes in 4 partitions, expected all nodes in 1" in captured.err
    assert "use Gemm" in captured.out


def test_require_full_passes_when_the_dimension_is_fixed(capsys, good):
    assert run(["check", good, "--target", "android", "--require-full", "--dim", "rows=2"]) == 0
    assert run(["check", good, "--target", "android", "--require-full"]) == 3
    assert "--dim NAME=SIZE" in capsys.readouterr().out


def test_explain_shows_the_usability_checkers_verdict(capsys, cut):
    assert run(["check", cut, "--target", "android", "--explain"]) == 0
    captured = capsys.readouterr()
    assert "says YES: 8/8 nodes in 1 partitions; the provider's own rules give 4/8 in 4" in captured.err
    assert "takes it" in captured.out
    assert run(["check", cut, "--target", "android", "--explain", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["usability_checker"]["verdict"] == "YES"


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--dim", "row=2"], 1, "no free dimension `row`; they have: `rows`"),
        (["--dim", "rows"], 2, "--dim got `rows`, expected NAME=SIZE"),
        (["--dim", "rows=1", "--dim", "rows=2"], 2, "names `rows` twice"),
        (["--coreml-format", "MIL", "--target", "coreml"], 1, "unknown Core ML format `MIL`"),
        (["--target", "windows"], 2, "--target got `windows`, expected android or coreml"),
    ],
)
def test_wrong_options(capsys, good, options, code, message):
    target = [] if "--target" in options else ["--target", "android"]
    assert run(["check", good, *target, *options]) == code
    assert message in capsys.readouterr().err


def test_truncated_missing_and_foreign_files(capsys, tmp_path, good):
    data = Path(good).read_bytes()
    (tmp_path / "half.onnx").write_bytes(data[: len(data) // 2])
    for path, message in (
        (tmp_path / "half.onnx", "not a complete ONNX model"),
        (tmp_path / "none.onnx", "no such model file"),
    ):
        assert run(["check", str(path), "--target", "android"]) == 1
        assert message in capsys.readouterr().err
    assert run(["check", str(tmp_path), "--target", "android"]) == 2
    assert "a folder without edgeq.json" in capsys.readouterr().err


def test_api_level_is_respected(capsys, tmp_path):
    path = write(tmp_path / "sqrt.onnx", [helper.make_node("Sqrt", ["x"], ["y"], "sqrt")], [2])
    assert run(["check", path, "--target", "android", "--json", "--api-level", "28"]) == 0
    refused = json.loads(capsys.readouterr().out)["refused"]
    assert refused[0]["reason"] == "needs Android API level 29, the target has 28"


def test_every_onnx_variant_of_a_bundle_is_checked(capsys, tiny_bundle):
    assert run(["check", str(tiny_bundle), "--target", "android", "--json", "--dim", "batch=1"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["target"] == "android"
    assert {variant["id"] for variant in document["variants"]} == {"cpu-fp32", "nnapi-fp32"}
    assert all(variant["nodes"] > 0 for variant in document["variants"])


def test_dimension_that_no_variant_of_a_bundle_has(capsys, tiny_bundle):
    assert run(["check", str(tiny_bundle), "--target", "android", "--dim", "bath=1"]) == 1
    assert "no variant has a free dimension `bath`; they have: `batch`, `sequence`" in capsys.readouterr().err


def test_only_the_variant_built_for_the_accelerator_must_be_full(capsys, tiny_bundle):
    """The stand-in graph has int64 ids, so its NNAPI variant is refused; the CPU variant promises nothing."""
    assert run(["check", str(tiny_bundle), "--target", "android", "--require-full"]) == 3
    error = capsys.readouterr().err
    assert "`cpu-fp32` is not built for this accelerator" in error
    assert "`nnapi-fp32` is not one full partition" in error
    assert "`cpu-fp32` is not one full partition" not in error


@pytest.mark.parametrize(("code", "layers"), [(100, ["sums"]), (64, [])])
def test_layers_that_can_saturate_are_named(capsys, tmp_path, code, layers):
    weight = numpy_helper.from_array(np.full((3, 3), code, np.int8), "w")
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], "round"),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["i"], "sums"),
        helper.make_node("Cast", ["i"], ["y"], "cast", to=onnx.TensorProto.FLOAT),
    ]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 3]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    path = tmp_path / "model.onnx"
    opsets = [helper.make_opsetid("", 17)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    assert run(["check", str(path), "--target", "android", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["can_saturate"]
    assert [layer["node"] for layer in found] == layers
    assert run(["check", str(path), "--target", "android"]) == 0
    printed = capsys.readouterr()
    assert ("saturate" in printed.out + printed.err) == bool(layers)
