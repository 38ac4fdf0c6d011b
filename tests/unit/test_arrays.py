"""`.npz` files of strangers: numbers, and no more of them than the file holds."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgeq.arrays import read_arrays


def npy(header: str, data: bytes = bytes(64)) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def described(kind: str, shape: str) -> str:
    return f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(tmp_path: Path, save: object) -> None:
    arrays = {
        "a": np.arange(6, dtype=np.int64).reshape(2, 3),
        "b": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "c": np.array(True),
        "d": np.zeros((0, 4), np.float16),
        "inputs/x": np.array([1.5], ">f8"),
    }
    assert callable(save)
    save(tmp_path / "x.npz", **arrays)
    found = read_arrays(tmp_path / "x.npz")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert np.array_equal(found[name], array)
        assert found[name].dtype == array.dtype


@pytest.mark.parametrize(
    "data",
    [
        npy(described("<f4", "(10**9,)"), b""),
        npy(described("<f4", "(1000000000,)")),
        npy(described("<f4", "(-16,)")),
        npy(described("<f4", "(17,)")),
        npy(described("<f4", "(4611686018427387904, 4611686018427387904)")),
        npy(described("|O", "(1,)"), pickle.dumps([1])),
        npy(described("<U999999999", "(1,)")),
        npy(described("no", "(16,)")),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (16,), "),
        npy("(" * 3000),
        npy('"' * 3),
        b"\x93NUMPY\x09\x00",
        b"garbage",
        b"",
    ],
)
def test_damage_is_a_value_error(tmp_path: Path, data: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as target:
        target.writestr("a.npy", data)
    with pytest.raises(ValueError, match=r"`x\.npz` is not a \.npz file of plain arrays"):
        read_arrays(tmp_path / "x.npz")


@pytest.mark.parametrize("data", [b"", b"PK", bytes(1000), b"\x93NUMPY"])
def test_no_archive_at_all(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(ValueError, match=r"not a \.npz file"):
        read_arrays(tmp_path / "x.npz")


def test_a_small_file_does_not_become_gigabytes(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.zeros(40_000_000, np.float32))
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("a.npy", stream.getvalue())
    assert (tmp_path / "x.npz").stat().st_size < 1 << 20
    with pytest.raises(ValueError, match="claim to unpack to 160000128"):
        read_arrays(tmp_path / "x.npz")
