"""Tensors, the division into two parts, and the built-in set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.plain_samples import plain

from edgeq.calibration import CalibrationData, load_samples, split
from edgeq.errors import DataError
from edgeq.samples import Text


def npz(tmp_path: Path, **arrays: np.ndarray) -> str:
    np.savez(tmp_path / "feeds.npz", **arrays)
    return str(tmp_path / "feeds.npz")


def test_tensors_are_drawn_together(tmp_path: Path) -> None:
    ids = np.arange(60).reshape(30, 2)
    data = load_samples(
        npz(tmp_path, input_ids=np.vstack([ids, ids[:3]]), weight=np.arange(33) % 30), count=10
    )
    assert data.feeds is not None
    assert data.samples == ()
    assert (len(data), data.total, data.duplicates) == (10, 33, 3)
    assert np.array_equal(data.feeds["input_ids"][:, 0], 2 * data.feeds["weight"])
    again = load_samples(npz(tmp_path, input_ids=ids[::-1], weight=np.arange(30)[::-1]), count=10)
    assert again.sha256 == data.sha256


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "holds no arrays"),
        ({"x": np.zeros((9, 2)), "y": np.zeros((8, 2))}, "different numbers of samples: x 9, y 8"),
        ({"x": np.array(3.0)}, "single number"),
        ({"x": np.array(["a", "b"])}, "expected numbers"),
        ({"x": np.zeros((0, 4))}, "no samples"),
        ({"x": np.array([[1.0], [np.nan]])}, "NaN or infinite in sample 2"),
        ({"x": np.ones((20, 2))}, "1 distinct samples"),
    ],
)
def test_unusable_tensors_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_samples(npz(tmp_path, **arrays))


def test_damaged_and_pickled_archives_are_refused(tmp_path: Path, write: Callable[..., str]) -> None:
    with pytest.raises(DataError, match=r"not a readable \.npz file"):
        load_samples(write("bad.npz", b"PK\x03\x04 nothing"))
    np.savez(tmp_path / "objects.npz", x=np.array([{"a": 1}] * 9, object))
    with pytest.raises(DataError, match=r"not a readable \.npz file"):
        load_samples(str(tmp_path / "objects.npz"))
    np.save(tmp_path / "single.npy", np.zeros(9))
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    with pytest.raises(DataError, match="is one array"):
        load_samples(str(tmp_path / "single.npz"))


def test_tensors_have_no_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not columns"):
        load_samples(npz(tmp_path, x=np.arange(20)), column="x")


@given(
    st.sets(st.text(min_size=1, max_size=5), min_size=2, max_size=40),
    st.floats(0.01, 0.99),
    st.integers(0, 9),
)
def test_split_divides_everything(texts: set[str], share: float, seed: int) -> None:
    data = CalibrationData(tuple(map(Text, sorted(texts))), "x", "", len(texts))
    kept, held = split(data, share, seed)
    assert sorted(plain(kept.samples + held.samples)) == sorted(texts)
    assert min(len(kept), len(held)) >= 1
    assert abs(len(held) - share * len(texts)) <= 1
    assert kept.sha256 != held.sha256


def test_split_follows_content_and_seed() -> None:
    data = load_samples(None, count=100)
    shuffled = CalibrationData(data.samples[::-1], data.source, "", data.total)
    assert set(split(data, 0.2)[1].samples) == set(split(shuffled, 0.2)[1].samples)
    assert set(split(data, 0.2, seed=1)[1].samples) != set(split(data, 0.2)[1].samples)


def test_split_divides_tensors(tmp_path: Path) -> None:
    kept, held = split(load_samples(npz(tmp_path, x=np.arange(40))), 0.25)
    assert kept.feeds is not None
    assert held.feeds is not None
    assert (len(kept), len(held)) == (30, 10)
    assert sorted([*kept.feeds["x"], *held.feeds["x"]]) == list(range(40))


def test_split_refuses_what_cannot_be_divided() -> None:
    data = load_samples(None)
    for share in (0.0, 1.0, -1.0):
        with pytest.raises(ValueError, match="held_out"):
            split(data, share)
    with pytest.raises(DataError, match="cannot be divided"):
        split(CalibrationData((Text("one"),), "x", "", 1), 0.5)


def test_the_built_in_set_covers_lengths_and_scripts() -> None:
    data = load_samples(None, count=10_000)
    words = sorted(len(text.split()) for text in plain(data.samples))
    assert data.source == "built-in"
    assert any("--calib" in notice for notice in data.notices)
    assert len(data) >= 390
    assert data.duplicates == 0
    assert words[len(words) // 20] <= 2
    assert words[-1] >= 180
    assert len({char for text in plain(data.samples) for char in text if ord(char) > 0x2000}) > 50


def test_the_built_in_set_has_no_column() -> None:
    with pytest.raises(DataError, match="no column `text`"):
        load_samples(None, column="text")
