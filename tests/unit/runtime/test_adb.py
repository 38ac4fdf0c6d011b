"""The adb lane against a fake adb whose phone is a folder (no real phone was ever attached)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper, save

from edgeq.cli import run_command_line
from edgeq.errors import ConfigError, EdgeqError, ModelError
from edgeq.runtime.adb import AdbOptions, attached_devices
from edgeq.runtime.executors import NativeExecutor, open_executor
from edgeq.runtime.raw_exchange import read_response, write_request
from edgeq.types import Verification

HERE = Path(__file__).parent
WEIGHT = np.random.default_rng(3).standard_normal((4, 3)).astype(np.float32)


@pytest.fixture
def phone(tmp_path, monkeypatch) -> Path:
    """An attached fake phone; returns the folder that is its storage."""
    programs = tmp_path / "programs"
    storage = tmp_path / "phone"
    (storage / "data/local/tmp").mkdir(parents=True)
    programs.mkdir()
    for name in ("adb", "runner"):
        # Isolated and without bytecode: two tests may start it at the same time.
        script = f'#!/bin/sh\nexec {sys.executable} -IB {HERE / f"fake_{name}.py"} "$@"\n'
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/bin:/usr/bin")
    monkeypatch.setenv("FAKE_PHONE", str(storage))
    return storage


@pytest.fixture
def options(tmp_path) -> AdbOptions:
    library = tmp_path / "libonnxruntime.so"
    library.write_bytes(b"\x7fELF")
    return AdbOptions(tmp_path / "programs/runner", (library,))


def write_model(folder: Path, *, external: bool = False) -> Path:
    """y, "two words" = x @ w, -x."""
    weight = numpy_helper.from_array(WEIGHT, "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Neg", ["x"], ["two words"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3]),
            helper.make_tensor_value_info("two words", TensorProto.FLOAT, ["n", 4]),
        ],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = folder / "it's a model.onnx"
    if external:
        external_data_helper.convert_model_to_external_data(
            model, location=f"{path.name}.data", size_threshold=0
        )
    save(model, path)
    return path


def batches() -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    return [{"x": generator.standard_normal((n, 4)).astype(np.float32)} for n in (1, 3)]


@pytest.mark.parametrize("external", [False, True])
def test_the_phone_computes_what_this_machine_does(phone, options, tmp_path, external):
    model = write_model(tmp_path, external=external)
    executor = open_executor("adb", adb=options)
    got = executor.run(model, batches())
    expected = NativeExecutor("arm64").run(model, batches())
    for mine, theirs in zip(got, expected, strict=True):
        assert list(mine) == ["y", "two words"]
        for name in theirs:
            np.testing.assert_array_equal(mine[name], theirs[name])


def test_the_phone_is_left_clean_and_described(phone, options, tmp_path):
    executor = open_executor("adb", adb=options)
    assert executor.environment["onnxruntime"] == "unknown before a run"
    executor.run(write_model(tmp_path), batches())
    assert not list((phone / "data/local/tmp").iterdir())
    assert executor.verification is Verification.EXECUTED
    import onnxruntime

    assert executor.environment == {
        "onnxruntime": onnxruntime.__version__,
        "architecture": "arm64",
        "cpu": "FAKE1000",
        "device": "Fake Phone",
        "android": "16",
        "provider": "CPUExecutionProvider",
    }
    pushed = [line.split()[-1] for line in (phone / "calls.log").read_text().splitlines() if " push " in line]
    assert any(path.endswith("/libonnxruntime.so") for path in pushed)


def test_a_refused_model_is_reported_with_the_runner_s_words_and_leaves_nothing(phone, options, tmp_path):
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"the phone's ONNX Runtime cannot run `.*bad.onnx`: runner: "):
        open_executor("adb", adb=options).run(bad, batches())
    assert not list((phone / "data/local/tmp").iterdir())


@pytest.mark.parametrize("command", ["push", "pull"])
def test_an_unplugged_phone_is_an_error(phone, options, tmp_path, monkeypatch, command):
    executor = open_executor("adb", adb=options)
    monkeypatch.setenv("FAKE_UNPLUG", command)
    with pytest.raises(EdgeqError, match=f"`adb {command}` failed: error: device 'SERIAL1' not found"):
        executor.run(write_model(tmp_path), batches())


@pytest.mark.parametrize(
    ("devices", "serial", "message"),
    [
        ("", None, "expected one usable device, adb lists none"),
        ("A\tdevice\nB\tdevice", None, r"adb lists A \(device\), B \(device\)"),
        ("A\tunauthorized", None, r"adb lists A \(unauthorized\)"),
        ("A\tdevice", "Z", r"no usable device `Z`: adb lists A \(device\)"),
        ("A\toffline", "A", r"no usable device `A`: adb lists A \(offline\)"),
    ],
)
def test_which_device_must_be_clear(phone, options, monkeypatch, devices, serial, message):
    monkeypatch.setenv("FAKE_DEVICES", devices)
    with pytest.raises(EdgeqError, match=message):
        open_executor("adb", adb=AdbOptions(options.runner, options.libraries, serial))


def test_one_of_several_devices_by_serial(phone, options, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_DEVICES", "A\tdevice\nB\tdevice")
    executor = open_executor("adb", adb=AdbOptions(options.runner, options.libraries, "B"))
    executor.run(write_model(tmp_path), batches())
    calls = (phone / "calls.log").read_text().splitlines()
    assert all(line.startswith("-s B ") for line in calls if line != "devices")
    assert attached_devices() == {"A": "device", "B": "device"}


def test_a_phone_of_another_architecture_is_refused(phone, options, monkeypatch):
    monkeypatch.setenv("FAKE_ABI", "armeabi-v7a")
    with pytest.raises(EdgeqError, match="`armeabi-v7a`, expected arm64-v8a"):
        open_executor("adb", adb=options)


def test_without_adb_or_runner(phone, options, monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match="needs a runner program"):
        open_executor("adb")
    with pytest.raises(ConfigError, match=r"no file `.*nothing`"):
        open_executor("adb", adb=AdbOptions(tmp_path / "nothing"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EdgeqError, match="`adb` is not on PATH"):
        open_executor("adb", adb=options)
    assert attached_devices() is None


def test_an_adb_that_hangs_is_an_error(phone, options, monkeypatch):
    adb = options.runner.with_name("adb")
    adb.write_text("#!/bin/sh\nexec sleep 30\n")
    monkeypatch.setattr("edgeq.runtime.adb._LIST_SECONDS", 0.2)
    with pytest.raises(EdgeqError, match=r"`adb devices` gave no answer in 0.2 s"):
        open_executor("adb", adb=options)
    assert attached_devices() is None


def test_tensors_of_every_type_and_rank_survive_the_exchange(tmp_path):
    arrays = {
        "scalar": np.array(3, np.int64),
        "empty": np.zeros((2, 0), np.float32),
        "a b": np.arange(24, dtype=np.uint8).reshape(2, 3, 4)[:, ::2],
        "half": np.array([1.5, -2], np.float16),
        "flag": np.array([[True], [False]]),
    }
    write_request(tmp_path / "x", [arrays])
    head, _, lines = (tmp_path / "x/request.txt").read_text().partition("\n")
    assert head == "option graph_optimization_level ORT_ENABLE_ALL"
    (tmp_path / "x/response.txt").write_text("onnxruntime 1.2.3\n" + lines)
    version, (read,) = read_response(tmp_path / "x", 1)
    assert version == "1.2.3"
    assert list(read) == list(arrays)
    for name, value in arrays.items():
        assert read[name].dtype == value.dtype
        np.testing.assert_array_equal(read[name], value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "something 1\n",
        "onnxruntime 1\n0 float32 1 5 missing.bin y\n",
        "onnxruntime 1\n0 float32 1 3 in0_0.bin y\n",
        "onnxruntime 1\n0 complex64 1 2 in0_0.bin y\n",
        "onnxruntime 1\n0 float32 1 2 ../in0_0.bin y\n",
        "onnxruntime 1\n-1 float32 1 2 in0_0.bin y\n",
        "onnxruntime 1\n7 float32 1 2 in0_0.bin y\n",
        "onnxruntime 1\n",
    ],
)
def test_a_malformed_response_is_refused(tmp_path, text):
    write_request(tmp_path / "x", [{"x": np.zeros(2, np.float32)}])
    (tmp_path / "x/response.txt").write_text(text)
    with pytest.raises(EdgeqError, match=r"response|returned nothing"):
        read_response(tmp_path / "x", 1)


def test_a_type_the_runner_does_not_know_is_refused(tmp_path):
    with pytest.raises(EdgeqError, match="`x` is complex64"):
        write_request(tmp_path / "x", [{"x": np.zeros(2, np.complex64)}])


def test_validate_replays_golden_cases_on_the_phone(phone, options, tiny_bundle, capsys) -> None:
    arguments = ["validate", str(tiny_bundle), "--on", "adb", "--runner", str(options.runner)]
    arguments += ["--runner-library", str(options.libraries[0]), "--json", "--quiet"]
    assert run_command_line(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["passed"] and {item["verification"] for item in document["variants"]} <= {
        "executed",
        "executed-other-arch",
    }


def test_validate_on_a_phone_needs_a_runner(phone, tiny_bundle, capsys) -> None:
    assert run_command_line(["validate", str(tiny_bundle), "--on", "adb", "--quiet"]) == 1
    assert "runner" in capsys.readouterr().err
