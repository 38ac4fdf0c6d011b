"""Pieces of tensors in files: every type and order of reading gives the same values."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.errors import ModelError, UnsupportedError
from edgeq.quantize.streaming import Checkpoint, StoredTensor

DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.float32}


@pytest.fixture
def stored(tmp_path, write_checkpoint):
    def store(values, dtype="F32"):
        return Checkpoint.open(write_checkpoint(tmp_path / "m.safetensors", {"w": (values, dtype)}))["w"]

    return store


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("max_elements", [1, 7, 40, 1 << 20])
def test_rows_in_any_order_and_size(stored, dtype, transposed, max_elements):
    # Multiples of 1/8 up to 8: exact in all three types.
    values = (np.random.default_rng(0).integers(-64, 64, (7, 10)) / 8).astype(np.float32)
    pieces = list(stored(values, dtype).rows(transposed=transposed, max_elements=max_elements))
    expected = values.T if transposed else values
    assert all(piece.dtype == np.float32 for piece in pieces)
    assert np.array_equal(np.concatenate(pieces), expected)
    assert max(piece.shape[0] for piece in pieces) <= max(1, max_elements // expected.shape[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_peak(stored, dtype):
    assert stored(np.array([[0.5, -3, 2]], np.float32), dtype).peak() == 3.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_peak_is_numpys(tmp_path_factory, values):
    path = tmp_path_factory.getbasetemp() / "peak.bin"
    array = np.array(values, "<f4")
    path.write_bytes(array.tobytes())
    assert StoredTensor("w", path, 0, "float32", array.shape).peak() == float(np.abs(array).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(stored, dtype, bad):
    values = np.ones((3, 5), np.float32)
    values[2, 1] = bad
    with pytest.raises(ModelError, match=r"`w` of `m.safetensors` holds NaN or infinite"):
        stored(values, dtype).peak()


def test_only_floats_have_a_peak(stored):
    with pytest.raises(UnsupportedError, match="holds int64"):
        stored(np.arange(3), "I64").peak()


def test_rows_need_a_matrix(stored):
    with pytest.raises(ModelError, match="expected a matrix"):
        list(stored(np.ones(3, np.float32)).rows())


def test_a_reference_points_at_the_same_bytes(stored):
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensor = stored(values)
    reference = tensor.reference("fc.weight")
    assert reference.name == "fc.weight" and np.array_equal(reference.numpy(), values)
    again = StoredTensor.from_reference(reference)
    assert (again.path, again.offset, again.dtype, again.shape) == (
        tensor.path,
        tensor.offset,
        "float32",
        (2, 3),
    )


@pytest.mark.parametrize("location", ["/etc/passwd", "../other/model.data"])
def test_references_stay_in_their_folder(location):
    outside = ir.ExternalTensor(
        location, 0, 4, ir.DataType.FLOAT, shape=ir.Shape([1]), name="w", base_dir="/x"
    )
    with pytest.raises(ModelError, match="outside the model"):
        StoredTensor.from_reference(outside)


def test_a_reference_of_the_wrong_length():
    wrong = ir.ExternalTensor("w.data", 0, 5, ir.DataType.FLOAT, shape=ir.Shape([1]), name="w", base_dir="/x")
    with pytest.raises(ModelError, match="has 5 bytes, expected 4"):
        StoredTensor.from_reference(wrong)


def test_a_missing_file(tmp_path):
    with pytest.raises(ModelError, match="weights of `w` are missing"):
        list(StoredTensor("w", tmp_path / "gone", 0, "float32", (1,)).pieces())
