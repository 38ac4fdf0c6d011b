"""The calibration cache: keys, damage, size, and a run that is killed and continued."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeq.errors import OutputError
from edgeq.quantize import cache as cache_module
from edgeq.quantize.batches import FeedBatches
from edgeq.quantize.cache import CalibrationCache, cache_key, default_folder, feeds_digest, model_digest
from edgeq.quantize.calibrate import calibrate, observe
from edgeq.quantize.statistics import Statistics

WEIGHT = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)


def model(weight: np.ndarray = WEIGHT) -> ir.Model:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Relu", ["y"], ["z"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 6])],
        [numpy_helper.from_array(weight, "w")],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def batches(count: int = 40, seed: int = 1) -> FeedBatches:
    return FeedBatches({"x": np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)}, 4)


class Log(list[str]):
    """Notices of a cache."""

    def __call__(self, message: str) -> None:
        self.append(message)


def cached(folder: Path, log: Log | None = None, **options: int) -> CalibrationCache:
    return CalibrationCache(folder, notify=log, **options)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.npz"))


def test_a_second_run_reads_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = calibrate(model(), ["y"], batches(), cache=cached(tmp_path))
    monkeypatch.setattr("edgeq.quantize.calibrate.session_of", None)
    second = calibrate(model(), ["y"], batches(), cache=cached(tmp_path))
    assert second.to_bytes() == first.to_bytes()
    with pytest.raises(TypeError):
        calibrate(model(), ["y"], batches(seed=2), cache=cached(tmp_path))


def test_everything_that_changes_numbers_changes_the_key(tmp_path: Path) -> None:
    store = cached(tmp_path)
    other = WEIGHT.copy()
    other[3, 5] = np.nextafter(other[3, 5], 9)
    calibrate(model(), ["y"], batches(), cache=store)
    calibrate(model(other), ["y"], batches(), cache=store)
    calibrate(model(), ["z"], batches(), cache=store)
    calibrate(model(), ["y"], batches(seed=3), cache=store)
    calibrate(model(), ["y"], batches(), cache=store, gram=True)
    calibrate(model(), ["y"], batches(), cache=store, padding=None)
    assert len(entries(tmp_path)) == 6
    assert cache_key("m", "d", {"a": 1}) != cache_key("m", "d", {"a": 2})


def test_the_version_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cache_key("m", "d", {})
    monkeypatch.setattr(cache_module, "STATISTICS_VERSION", 999)
    assert cache_key("m", "d", {}) != before


def test_the_model_digest_looks_at_weights_not_at_where_they_are(tmp_path: Path) -> None:
    ir.save(model(), tmp_path / "a.onnx", external_data="a.bin")
    assert model_digest(ir.load(tmp_path / "a.onnx")) == model_digest(model())
    assert model_digest(model(WEIGHT + 1)) != model_digest(model())
    original = model()
    model_digest(original)
    assert np.array_equal(original.graph.initializers["w"].const_value.numpy(), WEIGHT)


def test_the_feeds_digest_covers_values_names_and_batching() -> None:
    array = np.arange(8.0).reshape(4, 2)
    base = feeds_digest(FeedBatches({"x": array}, 2))
    assert base == feeds_digest(FeedBatches({"x": array.copy()}, 2))
    for other in (
        FeedBatches({"x": array + 1}, 2),
        FeedBatches({"y": array}, 2),
        FeedBatches({"x": array}, 4),
        FeedBatches({"x": array.astype(np.float32)}, 2),
    ):
        assert feeds_digest(other) != base


def test_a_damaged_entry_is_ignored_with_a_notice(tmp_path: Path) -> None:
    expected = calibrate(model(), ["y"], batches(), cache=cached(tmp_path))
    (entry,) = entries(tmp_path)
    data = entry.read_bytes()
    for damage in (data[: len(data) // 2], b"", data[:900] + b"\xff" * 64 + data[964:]):
        entry.write_bytes(damage)
        log = Log()
        again = calibrate(model(), ["y"], batches(), cache=cached(tmp_path, log))
        assert again.to_bytes() == expected.to_bytes()
        assert len(log) == 1
        assert "damaged calibration cache entry" in log[0]
        assert entry.read_bytes() == data


def test_an_entry_of_another_key_is_ignored(tmp_path: Path) -> None:
    calibrate(model(), ["y"], batches(), cache=cached(tmp_path))
    (entry,) = entries(tmp_path)
    foreign = observe(model(), ["y"], batches(seed=9))
    foreign.save(entry, key="something else")
    log = Log()
    again = calibrate(model(), ["y"], batches(), cache=cached(tmp_path, log))
    assert again.to_bytes() != foreign.to_bytes()
    assert "expected" in log[0]


def test_an_intact_entry_gives_no_notice(tmp_path: Path) -> None:
    log = Log()
    for _ in range(2):
        calibrate(model(), ["y"], batches(), cache=cached(tmp_path, log))
    assert log == []


def test_the_oldest_entries_go(tmp_path: Path) -> None:
    statistics = observe(model(), ["y"], batches())
    size = len(statistics.to_bytes(key="0" * 64))
    store = cached(tmp_path, max_bytes=3 * size + 100)
    for index in range(5):
        store.store(f"{index:064x}", statistics)
        path = tmp_path / f"{index:064x}.npz"
        os.utime(path, (index, index))
        if index == 2:
            assert store.load(f"{0:064x}") is not None  # used: no longer the oldest
    assert [int(path.stem, 16) for path in entries(tmp_path)] == [0, 3, 4]


def test_statistics_larger_than_the_cache_are_not_kept(tmp_path: Path) -> None:
    log = Log()
    cached(tmp_path, log, max_bytes=10).store("k", observe(model(), ["y"], batches()))
    assert entries(tmp_path) == []
    assert "not cached" in log[0]


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notices that other tests had are given again."""
    monkeypatch.setattr("edgeq.caches._said", set())


def test_an_unusable_folder_is_a_notice(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    log = Log()
    found = calibrate(model(), ["y"], batches(), cache=cached(tmp_path / "file" / "cache", log))
    assert found.samples == 40
    assert len(log) == 1
    assert "going on without a cache" in log[0] and "EDGEQ_CACHE" in log[0]


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EDGEQ_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder() == tmp_path / "xdg" / "edgeq" / "calibration"
    monkeypatch.setenv("EDGEQ_CACHE", str(tmp_path / "own"))
    assert default_folder() == tmp_path / "own" / "calibration"


def test_a_user_without_a_home_calibrates_without_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that runs as a number: no HOME, no entry in the password database."""
    for name in ("EDGEQ_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", _no_home)
    with pytest.raises(OutputError, match="no home folder"):
        default_folder()
    log = Log()
    found = calibrate(model(), ["y"], batches(), cache=CalibrationCache(notify=log))
    assert found.samples == 40 and len(log) == 1 and "no home folder" in log[0]


def _no_home(_: Path) -> Path:
    raise RuntimeError("Could not determine home directory.")


KILLED = """
import sys, time
import numpy as np
from edgeq.quantize.batches import FeedBatches
from edgeq.quantize.cache import CalibrationCache
from edgeq.quantize.calibrate import calibrate
from pathlib import Path

folder = Path(sys.argv[1])
feeds = dict(np.load(folder / "feeds.npz"))
calibrate(folder / "model.onnx", ["y"], FeedBatches(feeds, 4), cache=CalibrationCache(folder / "cache"),
          checkpoint_seconds=0.0, threads=1, gram=True, on_progress=lambda done: time.sleep(0.05))
"""


def test_a_killed_run_is_continued_to_the_same_bytes(tmp_path: Path) -> None:
    ir.save(model(), tmp_path / "model.onnx")
    feeds = batches(400).feeds
    np.savez(tmp_path / "feeds.npz", **feeds)
    folder = tmp_path / "cache"
    _run_until_checkpoint(tmp_path, folder)
    assert entries(folder) == []
    (checkpoint,) = folder.glob("*.checkpoint")
    done = Statistics.load(checkpoint).samples
    assert 0 < done < 400

    progress: list[int] = []
    options = {"threads": 1, "gram": True, "on_progress": progress.append}
    continued = calibrate(
        tmp_path / "model.onnx", ["y"], FeedBatches(feeds, 4), cache=cached(folder), **options
    )
    assert progress[0] == done + 4
    whole = calibrate(tmp_path / "model.onnx", ["y"], FeedBatches(feeds, 4), threads=1, gram=True)
    assert continued.to_bytes() == whole.to_bytes()
    assert list(folder.glob("*.checkpoint")) == []
    # Another order of the same batches ends in other last bits: the comparison above is one that can fail.
    backwards = FeedBatches({"x": feeds["x"][::-1]}, 4)
    assert calibrate(model(), ["y"], backwards, threads=1, gram=True).to_bytes() != whole.to_bytes()


def _run_until_checkpoint(tmp_path: Path, folder: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)])
    try:
        limit = time.monotonic() + 60
        while not list(folder.glob("*.checkpoint")):
            assert process.poll() is None, "the run ended before its first checkpoint"
            assert time.monotonic() < limit
            time.sleep(0.01)
        time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_a_run_killed_after_its_last_batch_is_finished_from_the_checkpoint(tmp_path: Path) -> None:
    store = cached(tmp_path)
    whole = calibrate(model(), ["y"], batches(), cache=store)
    (entry,) = entries(tmp_path)
    entry.unlink()
    store.store_checkpoint(entry.stem, whole)
    progress: list[int] = []
    again = calibrate(model(), ["y"], batches(), cache=store, on_progress=progress.append)
    assert progress == []
    assert again.to_bytes() == whole.to_bytes()
    assert entries(tmp_path) == [entry]
