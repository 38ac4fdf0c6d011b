"""Sums are exact on every CPU where edgeq opens the session, and the probe tells what the CPU does by itself."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from edgeq import onnx_runtime
from edgeq.errors import IntegrityError
from edgeq.onnx_runtime import (
    LEVELS,
    Arithmetic,
    arithmetic,
    kernels_saturate,
    ordered_level,
    ordered_options,
    session_options,
)
from edgeq.saturation import can_saturate, saturating_product

ROOT = Path(__file__).parents[2]


def product(
    codes: np.ndarray, activations: np.ndarray, *, exact: bool, level: str = "ORT_ENABLE_ALL"
) -> np.ndarray:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    rows, columns = codes.shape
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, ["m", rows])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, ["m", columns])],
        [numpy_helper.from_array(codes, "b")],
    )
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    options = session_options(exact=exact, level=level)  # type: ignore[arg-type]
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"a": activations})[0])


def unsafe_case(
    seed: int, rows: int = 70, columns: int = 33, batch: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    codes = rng.integers(-127, 128, (rows, columns)).astype(np.int8)
    assert can_saturate(codes)
    return codes, rng.integers(150, 256, (batch, rows)).astype(np.uint8)


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("level", ["ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"])
def test_sums_are_exact_on_every_cpu(level: str, batch: int) -> None:
    codes, activations = unsafe_case(1, batch=batch)
    assert np.array_equal(
        product(codes, activations, exact=True, level=level), activations.astype(int) @ codes.astype(int)
    )


@pytest.mark.parametrize("level", LEVELS)
def test_the_named_arithmetic_is_what_runs(level: str) -> None:
    """Also holds the emulation against the CPU's own kernels, where they saturate."""
    codes, activations = unsafe_case(2)
    true = activations.astype(int) @ codes.astype(int)
    emulated = saturating_product(activations, codes)
    assert not np.array_equal(true, emulated)
    for exact in (True, False):
        found = product(codes, activations, exact=exact, level=level)
        saturates = arithmetic(exact=exact, level=level) is Arithmetic.SATURATING  # type: ignore[arg-type]
        assert np.array_equal(found, emulated if saturates else true)


def test_the_probe_is_the_model_it_says() -> None:
    import onnx

    model = onnx.ModelProto.FromString(onnx_runtime._PROBE)
    onnx.checker.check_model(model, full_check=True)
    [node], [weight] = model.graph.node, model.graph.initializer
    assert (node.op_type, list(node.input)) == ("MatMulInteger", ["a", "b"])
    assert onnx.numpy_helper.to_array(weight).tolist() == [[127], [127]]


def test_safe_weights_make_every_cpu_exact() -> None:
    assert arithmetic(exact=False, level="ORT_DISABLE_ALL", safe=True) is Arithmetic.EXACT
    assert (arithmetic(exact=False) is Arithmetic.SATURATING) == kernels_saturate()


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_is_ordered_and_read_back(level: str) -> None:
    assert ordered_level({"session_options": ordered_options(level)}) == level  # type: ignore[arg-type]


def test_what_is_not_ordered_is_the_default() -> None:
    assert ordered_level({}) == ordered_level({"session_options": {}}) == "ORT_ENABLE_ALL"


@pytest.mark.parametrize(
    ("ordered", "named"),
    [({"graph_optimization_level": "ALL"}, "ALL"), ({"intra_op_num_threads": 4}, "intra_op_num_threads")],
)
def test_an_order_that_cannot_be_obeyed_is_refused(ordered: dict[str, object], named: str) -> None:
    with pytest.raises(IntegrityError, match=named):
        ordered_level({"session_options": ordered})


def options_made(path: Path) -> list[int]:
    """Lines that make SessionOptions of their own, or a session without any."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [(getattr(call.func, "attr", None) or getattr(call.func, "id", None), call) for call in calls]
    return [
        call.lineno
        for name, call in named
        if name == "SessionOptions"
        or (name == "InferenceSession" and len(call.args) < 2 and not _has_options(call))
    ]


def _has_options(call: ast.Call) -> bool:
    return any(keyword.arg == "sess_options" for keyword in call.keywords)


def test_only_one_place_makes_session_options(tmp_path: Path) -> None:
    # The runner works in another Python that has nothing of edgeq.
    allowed = {"onnx_runtime.py", "runner_script.py"}
    sources = [
        path
        for folder in ("toolkit/edgeq", "targets", "exporters", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if path.name not in allowed
    ]
    assert len(sources) > 300
    assert {str(path): found for path in sources if (found := options_made(path))} == {}
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import onnxruntime as ort\noptions = ort.SessionOptions()\nort.InferenceSession('m')\n")
    assert options_made(wrong) == [2, 3]
