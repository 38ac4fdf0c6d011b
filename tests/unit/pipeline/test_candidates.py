"""A search goes on where its cache cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.pipeline.tune.candidates import CandidateStore


class _Log(list[str]):
    def notice(self, message: str) -> None:
        self.append(message)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a store of no model, with what it said."""
    monkeypatch.setattr("edgeq.caches._said", set())
    monkeypatch.setattr("edgeq.pipeline.tune.candidates.find_layers", lambda _: None)
    monkeypatch.setattr("edgeq.pipeline.tune.candidates.units_of", lambda _: ())
    monkeypatch.setattr("edgeq.pipeline.tune.candidates.model_digest", lambda _: "model")
    monkeypatch.setattr("edgeq.pipeline.tune.candidates.feeds_digest", lambda _: "feeds")

    def make() -> tuple[CandidateStore, _Log]:
        anything: Any = type("Anything", (), {"model": None, "calibration": (), "search": ()})()
        log: Any = _Log()
        return CandidateStore(anything, anything, anything, log), log

    return make


def _memo(store: CandidateStore, name: str, value: float) -> float:
    return float(store.cache.array({"name": name}, lambda: np.asarray(value)))


def test_a_cache_that_cannot_be_written_is_read(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEQ_CACHE", str(tmp_path))
    assert _memo(make()[0], "old", 1.0) == 1.0
    store, log = make()
    monkeypatch.setattr("edgeq.pipeline.tune.candidate_cache.atomic_write_bytes", _only_outside(tmp_path))
    for name, value in (("old", 1.0), ("new", 3.0), ("newer", 4.0)):
        assert _memo(store, name, value) == value
        assert _memo(store, name, 5.0) == value
    assert len(log) == 1 and "EDGEQ_CACHE" in log[0] and str(tmp_path) in log[0]
    temporary = store.cache.folder
    assert temporary.is_dir() and not temporary.is_relative_to(tmp_path / "tune")
    del store
    assert not temporary.exists()


def test_a_file_is_no_cache(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGEQ_CACHE", str(tmp_path / "file"))
    store, log = make()
    assert (_memo(store, "a", 1.0), _memo(store, "a", 2.0)) == (1.0, 1.0)
    assert len(log) == 1 and "EDGEQ_CACHE" in log[0]


def _only_outside(folder: Path) -> Any:
    def write(path: Path, data: bytes) -> None:
        if path.is_relative_to(folder):
            raise PermissionError(13, "Permission denied", str(path))
        path.write_bytes(data)

    return write
