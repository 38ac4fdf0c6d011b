"""The interpreter: refusals, float16 rounding, file formats read against the libraries that write them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.errors import DataError, IntegrityError, ModelError, UnsupportedError
from edgeq.targets.coreml.interpreter import wire
from edgeq.targets.coreml.interpreter.blob import BlobFile
from edgeq.targets.coreml.interpreter.machine import OPERATORS, MilInterpreter
from edgeq.targets.coreml.interpreter.ops_layout import gather, quantize, slice_by_index
from edgeq.targets.coreml.interpreter.ops_math import erf, gelu
from edgeq.types import Verification

RNG = np.random.default_rng(3)
X = RNG.standard_normal((1, 4, 6)).astype(np.float32)


@pytest.fixture
def softmax(graph: Any, lower: Any) -> Any:
    node = onnx.helper.make_node("Softmax", ["x"], ["out"], axis=-1, name="s")
    model = graph([node], {"x": ("float32", X.shape)}, ["out"])
    return lower(model)[1].path


def rewrite(path: Path, change: Any) -> None:
    """Edit a package's specification with coremltools' own protobuf classes."""
    from coremltools.proto import Model_pb2

    file = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
    spec = Model_pb2.Model()
    spec.ParseFromString(file.read_bytes())
    function = spec.mlProgram.functions["main"]
    change(function.block_specializations[function.opset])
    file.write_bytes(spec.SerializeToString())


def operation_of(block: Any, kind: str) -> Any:
    return next(item for item in block.operations if item.type == kind)


def test_an_unknown_operator_is_an_error(softmax: Path) -> None:
    rewrite(softmax, lambda block: setattr(operation_of(block, "softmax"), "type", "softmaxx"))
    with pytest.raises(UnsupportedError, match="`softmaxx`"):
        MilInterpreter(softmax)


def test_an_unknown_argument_is_an_error(softmax: Path) -> None:
    def add_argument(block: Any) -> None:
        inputs = operation_of(block, "softmax").inputs
        inputs["temperature"].CopyFrom(inputs["x"])

    rewrite(softmax, add_argument)
    with pytest.raises(UnsupportedError, match="temperature"):
        MilInterpreter(softmax)


def test_a_wrong_declared_shape_is_an_error(softmax: Path) -> None:
    def widen(block: Any) -> None:
        dims = operation_of(block, "softmax").outputs[0].type.tensorType.dimensions
        dims[2].constant.size = 7

    rewrite(softmax, widen)
    with pytest.raises(IntegrityError, match="declared"):
        MilInterpreter(softmax).run({"x": X})


@pytest.mark.parametrize("data", [b"", b"\x0a\xff", b"junk"])
def test_a_damaged_specification_is_an_error(softmax: Path, data: bytes) -> None:
    (softmax / "Data" / "com.apple.CoreML" / "model.mlmodel").write_bytes(data)
    with pytest.raises((IntegrityError, UnsupportedError)):
        MilInterpreter(softmax)


def test_a_missing_manifest_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="manifest"):
        MilInterpreter(tmp_path / "none.mlpackage")


def test_feeds_are_checked(softmax: Path) -> None:
    interpreter = MilInterpreter(softmax)
    assert interpreter.verification is Verification.SIMULATED
    with pytest.raises(DataError, match="declares"):
        interpreter.run({"y": X})
    with pytest.raises(DataError, match="takes"):
        interpreter.run({"x": X[:, :2]})


def test_float16_rounding_happens_where_the_program_says(graph: Any, lower: Any) -> None:
    nodes = [
        onnx.helper.make_node("Mul", ["x", "c"], ["y"], name="m"),
        onnx.helper.make_node("Add", ["y", "c"], ["out"], name="a"),
    ]
    weights = {"c": np.array(1.1, np.float32)}
    model = graph(nodes, {"x": ("float32", X.shape)}, ["out"], weights)
    c = np.float16(1.1)
    half = (X.astype(np.float16).astype(np.float32) * np.float32(c)).astype(np.float16).astype(np.float32)
    expected = (half + np.float32(c)).astype(np.float16).astype(np.float32)
    rounded, _ = lower(model, precision="fp16")
    np.testing.assert_array_equal(rounded.run({"x": X})["out"], expected)
    exact, _ = lower(model, precision="fp16", rounding=False)
    assert not np.array_equal(exact.run({"x": X})["out"], expected)
    mixed, _ = lower(model, precision="fp16", fp32_nodes=frozenset({"m", "a"}))
    np.testing.assert_array_equal(mixed.run({"x": X})["out"], X * np.float32(1.1) + np.float32(1.1))


def test_a_mask_of_minus_infinity_survives_float16(graph: Any, lower: Any) -> None:
    nodes = [
        onnx.helper.make_node("Mul", ["m", "low"], ["bias"], name="bias"),
        onnx.helper.make_node("Add", ["x", "bias"], ["scores"], name="add"),
        onnx.helper.make_node("Softmax", ["scores"], ["out"], axis=-1, name="softmax"),
    ]
    inputs = {"x": ("float32", (1, 6)), "m": ("float32", (1, 6))}
    model = graph(nodes, inputs, ["out"], {"low": np.array(np.finfo(np.float32).min)})
    interpreter, lowered = lower(model, precision="fp16")
    masked = np.array([[0, 0, 0, 1, 1, 1]], np.float32)
    out = interpreter.run({"x": X[0, :1], "m": masked})["out"]
    assert np.isfinite(out).all()
    assert (out[0, 3:] == 0).all()
    assert out.sum() == pytest.approx(1, abs=2e-3)
    assert any("beyond float16" in note for note in lowered.notes)


def test_draws_of_last_bits_leave_what_is_exact(graph: Any, lower: Any) -> None:
    nodes = [
        onnx.helper.make_node("Cast", ["mask"], ["as_float"], to=onnx.TensorProto.FLOAT, name="c"),
        onnx.helper.make_node("Sub", ["one", "as_float"], ["hidden"], name="s"),
        onnx.helper.make_node("Mul", ["hidden", "low"], ["bias"], name="m"),
        onnx.helper.make_node("Softmax", ["x"], ["shares"], axis=-1, name="p"),
    ]
    weights = {"one": np.float32(1), "low": np.float32(-10000)}
    inputs = {"mask": ("int64", (1, 64)), "x": ("float32", X.shape)}
    model = graph(nodes, inputs, ["bias", "shares"], weights)
    own, lowered = lower(model, precision="fp16")
    mask = np.arange(64)[None] % 3 // 2
    plain = own.run({"mask": mask, "x": X})
    for seed in range(3):
        moved = MilInterpreter(lowered.path, seed=seed).run({"mask": mask, "x": X})
        np.testing.assert_array_equal(moved["bias"], plain["bias"])
        assert not np.array_equal(moved["shares"], plain["shares"])
        np.testing.assert_allclose(moved["shares"], plain["shares"], rtol=2**-8)


def test_erf_against_the_standard_library() -> None:
    x = np.linspace(-7, 7, 4001).astype(np.float32)
    expected = np.array([math.erf(value) for value in x.tolist()])
    assert np.abs(erf(x) - expected).max() < 6e-8  # half a unit of float32 at 1
    assert np.abs(gelu(x) - gelu(x, "TANH_APPROXIMATION")).max() > 1e-4


def test_quantize_rounds_half_to_even_and_saturates() -> None:
    x = np.array([0.5, 1.5, -2.5, 300, -300], np.float32)
    found = quantize(x, np.float32(1), "int8", np.asarray(np.int8(1)))
    assert found.tolist() == [1, 3, -1, 127, -128]
    with pytest.raises(UnsupportedError):
        quantize(x, np.float32(1), "int4")


def test_quantize_has_no_code_for_nan() -> None:
    infinite = quantize(np.array([np.inf, -np.inf], np.float32), np.float32(1), "int8")
    assert infinite.tolist() == [127, -128]
    with pytest.raises(ModelError, match="NaN values reach a quantization"):
        quantize(np.array([0, np.nan], np.float32), np.float32(1), "int8")


def test_undefined_indices_are_errors() -> None:
    with pytest.raises(UnsupportedError, match="does not define"):
        gather(X, np.array([-1]), 1)
    assert gather(X, np.array([3]), 1).shape == (1, 1, 6)


def test_slice_masks() -> None:
    flags = [np.array([True, False, True]), np.array([False, False, True]), np.array([True, False, False])]
    found = slice_by_index(X, np.array([0, 1, 5]), np.array([1, 3, 0]), None, *flags)
    np.testing.assert_array_equal(found, X[0, 1:3, :])


def test_parameter_names_are_those_of_coremltools() -> None:
    """A function of ours with a parameter MIL lacks would never be called with it."""
    import inspect

    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    for kind, function in OPERATORS.items():
        versions = SSAOpRegistry.core_ops[kind].values()
        known = {name for version in versions for name in version.input_spec.input_types}
        assert set(inspect.signature(function).parameters) <= known, kind


def test_weight_file_of_every_width(tmp_path: Path) -> None:
    from coremltools.libmilstoragepython import _BlobStorageWriter

    path = tmp_path / "weight.bin"
    writer = _BlobStorageWriter(str(path))
    whole = {"fp16": np.float16, "uint8": np.uint8, "int8": np.int8, "int32": np.int32, "uint16": np.uint16}
    written: list[tuple[int, np.ndarray]] = []
    for name, dtype in whole.items():
        data = RNG.integers(0, 100, 21).astype(dtype)
        raw = data.view(np.uint16) if name == "fp16" else data
        written.append((getattr(writer, f"write_{name}_data")(raw), data))
    floats = RNG.standard_normal(5).astype(np.float32)
    written.append((writer.write_float_data(floats), floats))
    for bits in (1, 2, 3, 4, 6):
        codes = RNG.integers(0, 2**bits, 24).astype(np.uint8)
        written.append((getattr(writer, f"write_uint{bits}_data")(codes), codes))
    signed = RNG.integers(-8, 8, 24).astype(np.int8)
    written.append((writer.write_int4_data(signed), signed))
    del writer
    blob = BlobFile(path)
    for offset, expected in written:
        np.testing.assert_array_equal(blob.read(offset, len(expected)), expected)
    with pytest.raises(IntegrityError, match="elements"):
        blob.read(written[0][0], 22)
    with pytest.raises(IntegrityError, match="no weight record"):
        blob.read(written[0][0] + 64, 21)
    with pytest.raises(IntegrityError, match="outside"):
        blob.read(10**9, 1)


@given(
    st.lists(st.integers(-(2**31), 2**31 - 1)),
    st.text(max_size=20),
    st.lists(st.floats(width=32, allow_nan=False)),
)
def test_wire_reads_what_protobuf_writes(numbers: list[int], text: str, floats: list[float]) -> None:
    from coremltools.proto import MIL_pb2

    value = MIL_pb2.Value(docString=text)
    value.immediateValue.tensor.ints.values.extend(numbers)
    fields = wire.parse(memoryview(value.SerializeToString()))
    assert wire.text(fields, 1) == text
    tensor = wire.message(wire.message(fields, 3) or {}, 1) or {}
    assert wire.numbers(wire.message(tensor, 2) or {}, 1) == numbers
    held = MIL_pb2.TensorValue.RepeatedFloats(values=floats)
    parsed = wire.parse(memoryview(held.SerializeToString()))
    assert wire.fixed(parsed, 1, "<f4").tolist() == [np.float32(item) for item in floats]
