"""Weights made of stored tensors: stacked, turned, in half precision, and read a piece at a time."""

from __future__ import annotations

import io

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.errors import ModelError, UnsupportedError
from edgeq.quantize.streaming import Checkpoint, stacked_rows
from edgeq.quantize.streaming.stacked_rows import StackedRows, values_of


@pytest.fixture(params=["F32", "BF16", "F16"])
def parts(request, tmp_path, write_checkpoint):
    """Three matrices of 7 columns whose values every type holds exactly."""
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-9, 9, (rows, 7)).astype(np.float32) / 8 for rows in (5, 1, 4)]
    tensors = {f"part{index}": (array, request.param) for index, array in enumerate(arrays)}
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "model.safetensors", tensors))
    return np.concatenate(arrays), [checkpoint[name] for name in tensors]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Several pieces per tensor, and columns gathered from the file."""
    monkeypatch.setattr(stacked_rows, "TURNED_ELEMENTS", 12)
    monkeypatch.setattr(StackedRows.rows, "__kwdefaults__", {"transposed": False, "max_elements": 14})


@pytest.mark.parametrize("is_turned", [False, True])
@pytest.mark.parametrize("is_half", [False, True])
@pytest.mark.parametrize("whole_elements", [0, 1 << 20])
def test_values(parts, monkeypatch, is_turned, is_half, whole_elements):
    monkeypatch.setattr(stacked_rows, "WHOLE_ELEMENTS", whole_elements)
    expected, stored = parts
    tensor = StackedRows(stored, "w", is_turned=is_turned, is_half=is_half)
    wanted = (expected.T if is_turned else expected).astype(np.float16 if is_half else np.float32)
    assert tensor.dtype == (ir.DataType.FLOAT16 if is_half else ir.DataType.FLOAT)
    assert tensor.shape.numpy() == wanted.shape
    for found in (tensor.numpy(), np.asarray(tensor)):
        assert found.dtype == wanted.dtype and np.array_equal(found, wanted)
    file = io.BytesIO()
    tensor.tofile(file)
    assert file.getvalue() == tensor.tobytes() == np.ascontiguousarray(wanted).tobytes()


@pytest.mark.parametrize("is_turned", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_rows_of_either_orientation(parts, is_turned, transposed):
    expected, stored = parts
    pieces = list(StackedRows(stored, is_turned=is_turned).rows(transposed=transposed))
    assert len(pieces) > 1
    assert np.array_equal(np.concatenate(pieces), expected.T if is_turned != transposed else expected)


def test_transposing_twice_and_origins(parts):
    _, stored = parts
    tensor = StackedRows(stored)
    assert tensor.transposed().transposed().origin == tensor.origin
    others = (tensor.transposed(), tensor.as_float16(), StackedRows(stored[:2]), StackedRows(stored[::-1]))
    assert tensor.origin not in [other.origin for other in others]


@pytest.mark.parametrize(("start", "stop"), [(0, 10), (0, 5), (3, 7), (5, 6), (9, 10)])
def test_some_rows(parts, start, stop):
    expected, stored = parts
    part = StackedRows(stored).part(start, stop)
    assert np.array_equal(part.numpy(), expected[start:stop])
    assert part.peak() == np.abs(expected[start:stop]).max()
    with pytest.raises(ValueError, match="is turned"):
        StackedRows(stored, is_turned=True).part(start, stop)


def test_entries_by_index(parts):
    expected, stored = parts
    assert np.array_equal(stored[0].take([4, 0, 4]), expected[[4, 0, 4]])
    with pytest.raises(IndexError, match="entry 5 of `part0`"):
        stored[0].take([5])
    with pytest.raises(ValueError, match="entries 2 to 9 of `part0`"):
        stored[0].part(2, 9)


def test_refusals(tmp_path, write_checkpoint):
    values = {"wide": np.ones((2, 3)), "narrow": np.ones((2, 2)), "huge": np.full((2, 2), 7e4)}
    values["nan"] = np.array([[np.nan, 1.0, 1.0]])
    path = write_checkpoint(tmp_path / "m.safetensors", {k: (v, "F32") for k, v in values.items()})
    checkpoint = Checkpoint.open(path)
    with pytest.raises(ModelError, match=r"`narrow` \[2, 2\] does not stack on \[2, 3\]"):
        StackedRows([checkpoint["wide"], checkpoint["narrow"]])
    with pytest.raises(UnsupportedError, match="7e\\+04, beyond float16's 65504"):
        StackedRows([checkpoint["huge"]]).as_float16()
    with pytest.raises(ModelError, match=r"`nan` of `m\.safetensors` holds NaN"):
        StackedRows([checkpoint["wide"], checkpoint["nan"]]).peak()
    assert values_of(checkpoint["wide"]).shape == (2, 3)
