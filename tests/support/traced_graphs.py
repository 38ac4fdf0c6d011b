"""Graphs that torch traced once in a run of the tests, for all of its processes: tracing is most of a small export."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeq.exporters import loading
from edgeq.exporters.exported_model import ExportedModel, ModelFacts


class TracedGraphs:
    """Stands in for what traces a model of a folder, and traces each content of a folder once.

    Everything else of an export is done each time, the comparison with the original too.

    Args:
        folder: where the graphs are kept; shared by processes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._load: Callable[..., ExportedModel] = loading._load_folder
        self._trace: Callable[..., Any] = loading._trace
        self._key: str | None = None

    def in_use(self) -> AbstractContextManager[None]:
        """While open, `load_model` takes its graphs from here."""
        return _exports_with(self._load_folder, self._found)

    def set_aside(self) -> AbstractContextManager[None]:
        """While open, every export traces."""
        return _exports_with(self._load, self._trace)

    def _load_folder(self, facts: ModelFacts, seq_len: int | None, say: Any) -> ExportedModel:
        self._key = _digest(facts.folder, f"{facts.architecture} {facts.task} {seq_len}")
        return self._load(facts, seq_len, say)

    def _found(self, *arguments: Any) -> Any:
        path = self._folder / f"{self._key}.pickle"
        if path.exists():
            return _unpacked(path.read_bytes())
        traced = self._trace(*arguments)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_bytes(_packed(traced))
        part.replace(path)  # at once: another process may be reading
        return traced


@contextmanager
def _exports_with(load_folder: Callable[..., ExportedModel], trace: Callable[..., Any]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "_load_folder", load_folder)
        patch.setattr(loading, "_trace", trace)
        yield


def _digest(folder: Path, settings: str) -> str:
    found = hashlib.sha256(settings.encode())
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found.update(f"\0{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
        found.update(path.read_bytes())
    return found.hexdigest()


def _packed(traced: Any) -> bytes:
    import onnx_ir as ir

    proto = ir.to_proto(traced.model).SerializeToString(deterministic=True)
    return pickle.dumps((proto, replace(traced, model=None)))


def _unpacked(content: bytes) -> Any:
    import onnx
    import onnx_ir as ir

    proto, bare = pickle.loads(content)
    return replace(bare, model=ir.from_proto(onnx.ModelProto.FromString(proto)))
