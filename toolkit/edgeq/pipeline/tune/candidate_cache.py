"""What a search computes, on disk under a key of everything it follows from."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.caches import cache_folder, notice_unusable
from edgeq.errors import OutputError
from edgeq.files import atomic_write_bytes
from edgeq.pipeline.weight_only import QuantizedLayer
from edgeq.progress import Progress
from edgeq.quantize.formats import Blocks
from edgeq.quantize.plan import WeightDecision
from edgeq.quantize.streaming.weight_store import HeldCodes
from edgeq.quantize.weight_only import QuantizedWeight
from edgeq.scratch import ScratchFolder
from edgeq.types import Array

CACHE_VERSION = 2


class CandidateCache:
    """Arrays and quantized layers of one model and its texts.

    Args:
        key: what tells the model and the texts.
        progress: told where the cache cannot be used.
        folder: of all models; `$EDGEQ_CACHE/tune` when None, or a temporary one where that cannot be used.
    """

    def __init__(self, key: Mapping[str, Any], progress: Progress, folder: Path | None = None) -> None:
        self._progress = progress
        self._scratch: ScratchFolder | None = None
        self.folder = (folder or self._default()) / _hash(key)[:32]
        self._cached = self.folder

    def array(self, key: Mapping[str, Any], compute: Callable[[], Array]) -> Array:
        """An array under a key, computed once."""
        path = self._place(f"{_hash({**key, 'version': CACHE_VERSION})}.npy")
        try:
            return np.asarray(np.load(path, allow_pickle=False))
        except (OSError, ValueError, EOFError):
            value = compute()
            self._store(path.name, _bytes_of(lambda stream: np.save(stream, value)))
            return value

    def layer(self, key: Mapping[str, Any], compute: Callable[[], QuantizedLayer]) -> QuantizedLayer:
        """A quantized layer under a key, computed once."""
        path = self._place(f"{_hash({**key, 'version': CACHE_VERSION})}.npz")
        found = _load_layer(path)
        if found is None:
            found = compute()
            self._store(path.name, _layer_bytes(found))
        return found

    def _default(self) -> Path:
        try:
            return cache_folder() / "tune"
        except OutputError as error:
            notice_unusable(error, self._progress.notice)
            return self._temporary()

    def _temporary(self) -> Path:
        """A search reads what it stored many times: without a cache it keeps that until its end."""
        self._scratch = ScratchFolder("tune")
        return self._scratch.path

    def _place(self, name: str) -> Path:
        """Where an entry is, or is to be; a cache that cannot be written may still be read."""
        own, cached = self.folder / name, self._cached / name
        return cached if os.path.isfile(cached) and not os.path.isfile(own) else own

    def _store(self, name: str, data: bytes) -> None:
        """Write an entry; where the cache takes none, this and the next go to a temporary folder."""
        try:
            _write(self.folder / name, data)
        except OSError as error:
            if self._scratch is not None:
                raise
            notice_unusable(error, self._progress.notice)
            self.folder = self._temporary()
            _write(self.folder / name, data)


def _hash(key: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def _layer_bytes(layer: QuantizedLayer) -> bytes:
    facts = {
        "decision": asdict(layer.decision),
        "spec": asdict(layer.weight.spec),
        "in_features": layer.weight.in_features,
    }
    text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    arrays: dict[str, Any] = {"facts": text, "q": layer.weight.q, "scales": layer.weight.scales}
    if layer.weight.zero_points is not None:
        arrays["zero_points"] = layer.weight.zero_points
    return _bytes_of(lambda stream: np.savez(stream, **arrays))


def _load_layer(path: Path) -> QuantizedLayer | None:
    """A damaged or missing entry counts as none."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            facts = json.loads(archive["facts"].tobytes())
            zeros = archive.get("zero_points")
            decision = WeightDecision(**{**facts["decision"], "notes": tuple(facts["decision"]["notes"])})
            spec = Blocks(**facts["spec"])
            q, scales = archive["q"], archive["scales"]
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    weight = QuantizedWeight(q, scales, zeros, spec, facts["in_features"], decision.method, decision.notes)
    return QuantizedLayer(decision, HeldCodes(weight))


def _bytes_of(write: Callable[[io.BytesIO], None]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(path, data)
