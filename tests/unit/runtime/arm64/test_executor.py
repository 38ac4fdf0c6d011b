"""The executor with a fake emulator, and, where the lane is set up, the real ARM64 kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, load, numpy_helper, save

from edgeq.errors import EdgeqError, ModelError, UnsupportedError
from edgeq.runtime.arm64.cores import CORES
from edgeq.runtime.arm64.executor import EmulatedArm64Executor
from edgeq.runtime.arm64.lane import SETUP_COMMAND, load_lane
from edgeq.runtime.arm64.lane_setup import set_up_lane
from edgeq.runtime.arm64.selftest import check_executor
from edgeq.runtime.executors import Executor, NativeExecutor, host_architecture, open_executor
from edgeq.types import Verification


@pytest.fixture
def arm64() -> Executor:
    """The real lane."""
    try:
        return open_executor("arm64")
    except EdgeqError as error:
        pytest.skip(f"{error.message}; set it up with: {SETUP_COMMAND}")


def write_linear(folder: Path, *, activation: type = np.uint8, scale: float = 0.04) -> Path:
    """A QDQ MatMul: 8-bit activations with a zero point, int8 weights per channel."""
    generator = np.random.default_rng(1)
    weight = generator.integers(-127, 128, (48, 32)).astype(np.int8)
    zero = activation(128 + 7 if activation is np.uint8 else 7)
    constants = {
        "s": np.float32(scale),
        "z": zero,
        "w": weight,
        "ws": generator.uniform(0.001, 0.002, 32).astype(np.float32),
        "wz": np.zeros(32, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=1),
        helper.make_node("MatMul", ["xd", "wd"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 48])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 32])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    path = folder / "linear.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def inputs() -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(2)
    return [{"x": generator.standard_normal((n, 48)).astype(np.float32)} for n in (1, 5)]


@pytest.mark.arm64
@pytest.mark.parametrize("activation", [np.uint8, np.int8])
def test_a_static_int8_product_is_the_same_on_arm64(arm64, tmp_path, activation):
    model = write_linear(tmp_path, activation=activation)
    here = NativeExecutor("arm64").run(model, inputs())
    there = arm64.run(model, inputs())
    assert arm64.verification.rank >= Verification.EXECUTED_ARM64_EMULATED.rank
    assert [batch["y"].shape for batch in there] == [(1, 32), (5, 32)]
    for mine, theirs in zip(here, there, strict=True):
        # Integer sums are exact and one float multiplication follows: bit-identical.
        np.testing.assert_array_equal(mine["y"], theirs["y"])


@pytest.mark.arm64
def test_the_graph_that_arm64_executes_can_be_saved(arm64, tmp_path):
    if not isinstance(arm64, EmulatedArm64Executor):
        pytest.skip("on an ARM64 machine ONNX Runtime's own option saves it")
    arm64.save_optimized(write_linear(tmp_path), tmp_path / "optimized.onnx")
    operators = [node.op_type for node in load(tmp_path / "optimized.onnx").graph.node]
    assert "MatMulIntegerToFloat" in operators
    assert "MatMul" not in operators


@pytest.mark.arm64
def test_another_scale_is_seen_as_a_difference(arm64, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    here = NativeExecutor("arm64").run(write_linear(tmp_path), inputs())
    there = arm64.run(write_linear(other, scale=0.05), inputs())
    assert not np.array_equal(here[1]["y"], there[1]["y"])


@pytest.mark.arm64
def test_a_model_that_arm64_refuses_is_a_model_error(arm64, tmp_path):
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"cannot run `.*bad\.onnx`: .*"):
        arm64.run(bad, inputs())
    with pytest.raises(ModelError, match=r"cannot run"):
        arm64.run(write_linear(tmp_path), [{"wrong": inputs()[0]["x"]}])


@pytest.mark.arm64
@pytest.mark.parametrize("cpu", CORES)
def test_every_core_multiplies_integers_exactly(arm64, cpu):
    check_executor(open_executor("arm64", cpu=cpu))


def test_the_emulator_is_started_with_the_core_s_root_and_a_clean_environment(clients, monkeypatch, tmp_path):
    lane = set_up_lane()
    monkeypatch.setenv("LD_PRELOAD", "/x.so")
    monkeypatch.setenv("PYTHONSTARTUP", "x.py")
    executor = EmulatedArm64Executor(lane, CORES["cortex-a55"])
    command = executor._python()
    assert command[1:5] == ["-L", str(lane.folder / "cores/cortex-a55"), "-cpu", "cortex-a76"]
    assert command[-1] == "-B"
    variables = executor._environment_variables()
    assert "LD_PRELOAD" not in variables
    assert "PYTHONSTARTUP" not in variables
    assert executor.environment["cpu"] == (
        "cortex-a55 with the instructions of cortex-a76, emulated by QEMU 7.2.22"
    )


def test_a_lane_is_not_opened_for_a_core_its_emulator_cannot_be(clients):
    set_up_lane()
    assert open_executor("arm64", cpu="cortex-a55").verification is Verification.EXECUTED_ARM64_EMULATED
    with pytest.raises(UnsupportedError, match="cannot be a `cortex-a53`"):
        open_executor("arm64", cpu="cortex-a53")


def test_an_absent_lane_says_how_to_get_it(clients):
    with pytest.raises(EdgeqError, match="the ARM64 lane is not set up") as caught:
        open_executor("arm64")
    assert caught.value.hint == SETUP_COMMAND


def test_a_crash_and_a_slow_model_are_told_apart(clients, tmp_path):
    lane = set_up_lane()
    model = write_linear(tmp_path)
    clients.tell("fail-crash")
    with pytest.raises(EdgeqError, match=r"was ended by SIGSEGV while running `.*linear\.onnx`"):
        open_executor("arm64").run(model, inputs())
    with pytest.raises(EdgeqError, match="more than 0 s under emulation"):
        EmulatedArm64Executor(lane, CORES["cortex-a76"], timeout_seconds=0.001).run(model, inputs())


def test_on_an_arm64_machine_the_native_runtime_is_the_lane(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    executor = open_executor("arm64")
    assert isinstance(executor, NativeExecutor)
    assert executor.verification is Verification.EXECUTED


@pytest.mark.parametrize(
    ("machine", "target", "level"),
    [
        ("x86_64", "arm64", Verification.EXECUTED_OTHER_ARCH),
        ("x86_64", "x86-64", Verification.EXECUTED),
        ("aarch64", "arm64", Verification.EXECUTED),
        ("AMD64", "x86-64", Verification.EXECUTED),
    ],
)
def test_native_proves_more_on_the_target_s_architecture(monkeypatch, machine, target, level):
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert open_executor("native", target_arch=target).verification is level


def test_native_runs_and_describes_itself(tmp_path):
    executor = open_executor("native")
    (first, second) = executor.run(write_linear(tmp_path), inputs())
    assert (first["y"].shape, second["y"].shape) == ((1, 32), (5, 32))
    assert executor.environment["architecture"] == host_architecture()
    (tmp_path / "bad.onnx").write_bytes(b"x")
    with pytest.raises(ModelError, match="ONNX Runtime cannot run"):
        executor.run(tmp_path / "bad.onnx", inputs())


def test_an_unknown_place_is_refused():
    with pytest.raises(UnsupportedError, match="got `moon`, expected one of native, arm64, adb"):
        open_executor("moon")


@pytest.mark.arm64
def test_the_lane_has_the_installed_onnxruntime(arm64):
    import onnxruntime

    assert arm64.environment["onnxruntime"] == onnxruntime.__version__
    if host_architecture() == "x86-64":
        assert load_lane().core_root("cortex-a76").is_dir()
