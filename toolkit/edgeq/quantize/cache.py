"""Calibration results kept between runs, and checkpoints of runs that were interrupted.

An entry is named by a hash of everything its numbers follow from: the graph with its weights, the model
inputs, what was asked for, and the versions that compute it. So an entry of another model or other data is
never found by mistake.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.caches import cache_folder, notice_unusable
from edgeq.errors import DataError, OutputError
from edgeq.quantize.statistics import STATISTICS_VERSION, Statistics
from edgeq.types import Feeds

if TYPE_CHECKING:
    import onnx_ir as ir

MAX_BYTES = 1 << 30
"""Oldest entries go when all of them together are larger."""

_ENTRY = ".npz"
_CHECKPOINT = ".checkpoint"


def default_folder() -> Path:
    """Of calibration results, in edgeq's cache folder."""
    return cache_folder() / "calibration"


def cache_key(model: str, data: str, settings: Mapping[str, Any]) -> str:
    """Hexadecimal SHA-256 that names an entry.

    Args:
        model: `model_digest`.
        data: `feeds_digest`.
        settings: everything else that changes the numbers, as JSON values.
    """
    facts = {"model": model, "data": data, "settings": settings, "version": STATISTICS_VERSION}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def model_digest(model: ir.Model) -> str:
    """SHA-256 of a graph and its weights, read one at a time; where the weights are stored plays no part."""
    import onnx_ir as ir

    copy = model.clone()
    for graph in copy.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None:
                continue
            digest = hashlib.sha256(tensor.tobytes()).hexdigest()
            value.const_value = ir.ExternalTensor(
                digest, 0, 0, dtype=tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=value.name or ""
            )
    return hashlib.sha256(ir.to_proto(copy).SerializeToString(deterministic=True)).hexdigest()


def feeds_digest(batches: Iterable[tuple[Feeds, int]]) -> str:
    """SHA-256 of every array of every batch: covers the samples, the tokenizer, truncation and batching."""
    digest = hashlib.sha256()
    for feeds, count in batches:
        for name in sorted(feeds):
            array = np.ascontiguousarray(feeds[name])
            digest.update(f"{name}|{array.dtype.str}|{array.shape}|{count}|".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def _silent(_: str) -> None:
    """Drop a notice."""


class CalibrationCache:
    """Entries in a folder of bounded size. Never the reason that a calibration fails: problems are notices.

    Args:
        folder: of the entries; `default_folder()` when None.
        max_bytes: oldest entries go when all together are larger.
        notify: receives notices.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        max_bytes: int = MAX_BYTES,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        self.max_bytes = max_bytes
        self._notify = _silent if notify is None else notify
        self._given = folder
        self.folder = self._default() if folder is None else folder

    def load(self, key: str) -> Statistics | None:
        """The finished statistics of this key, if there are any."""
        return self._load(key, _ENTRY)

    def load_checkpoint(self, key: str) -> Statistics | None:
        """The statistics an interrupted run of this key left, if there are any."""
        return self._load(key, _CHECKPOINT)

    def store(self, key: str, statistics: Statistics) -> None:
        """Keep finished statistics; the key's checkpoint goes."""
        self._store(key, _ENTRY, statistics)
        if self.folder is not None:
            self._remove(self.folder / f"{key}{_CHECKPOINT}")

    def store_checkpoint(self, key: str, statistics: Statistics) -> None:
        """Keep the statistics of the batches done so far."""
        self._store(key, _CHECKPOINT, statistics)

    def _default(self) -> Path | None:
        """None where there is no home folder: nothing is kept then."""
        try:
            return default_folder()
        except OutputError as error:
            notice_unusable(error, self._notify)
            return None

    def _load(self, key: str, suffix: str) -> Statistics | None:
        path = None if self.folder is None else self.folder / f"{key}{suffix}"
        # os.path: a folder that may not be entered has no entry either
        if path is None or not os.path.isfile(path):
            return None
        try:
            statistics = Statistics.load(path, key=key)
        except DataError as error:
            self._notify(f"ignoring a damaged calibration cache entry: {error.message}")
            self._remove(path)
            return None
        self._touch(path)
        return statistics

    def _store(self, key: str, suffix: str, statistics: Statistics) -> None:
        if self.folder is None:
            return
        if statistics.nbytes > self.max_bytes:
            self._notify(
                f"calibration statistics of {statistics.nbytes >> 20} MB are not cached; "
                f"the cache holds {self.max_bytes >> 20} MB"
            )
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{key}{suffix}"
            statistics.save(path, key=key)
            self._shrink(keep=path)
        except OSError as error:
            notice_unusable(error, self._notify, self._given)

    def _shrink(self, keep: Path) -> None:
        entries = [
            (path.stat().st_mtime_ns, path.stat().st_size, path)
            for path in keep.parent.iterdir()
            if path.suffix in (_ENTRY, _CHECKPOINT)
        ]
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.max_bytes:
                return
            if path != keep:
                self._remove(path)
                total -= size

    def _touch(self, path: Path) -> None:
        try:
            path.touch()
        except OSError:
            self._notify(f"calibration cache `{self.folder}` is read-only")

    def _remove(self, path: Path) -> None:
        if not os.path.isfile(path):
            return
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._notify(f"calibration cache entry could not be removed: {error}")
