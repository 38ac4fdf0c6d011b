"""The `.mlpackage` on disk: metadata, a stable manifest, and a name Xcode can make a Swift class of."""

from __future__ import annotations

import json
import re
import shutil
import uuid
from pathlib import Path
from typing import Any

from edgeq.errors import OutputError
from edgeq.targets.coreml.backend import quiet
from edgeq.targets.coreml.decisions import PackageInfo

_VOLATILE = ("com.github.apple.coremltools.conversion_date",)
"""User-defined keys that would make two equal packages differ."""

_LABELS_KEY = "edgeq.labels"
_LENGTHS_KEY = "edgeq.sequence_lengths"


def swift_class_name(name: str) -> str:
    """A name Xcode can generate a Swift class for: `all-MiniLM-L6-v2` becomes `AllMiniLML6V2`."""
    words = [word for word in re.split(r"[^A-Za-z0-9]+", name) if word]
    joined = "".join(word[0].upper() + word[1:] for word in words)
    return joined if joined and not joined[0].isdigit() else f"Model{joined}"


def save_package(mlmodel: Any, path: Path, info: PackageInfo, lengths: tuple[int, ...]) -> None:
    """Describe a converted model and save it; an existing folder is refused.

    Raises:
        OutputError: the path exists or cannot be written.
    """
    if path.suffix != ".mlpackage":
        raise OutputError(f"`{path.name}` is no Core ML package name; expected it to end in .mlpackage")
    if path.exists():
        raise OutputError(f"`{path}` exists already", hint="remove it, or choose another output folder")
    _describe(mlmodel, info, lengths)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with quiet():
            mlmodel.save(str(path))
        _stable_manifest(path)
        _stable_spec(path)
    except OSError as error:
        shutil.rmtree(path, ignore_errors=True)
        raise OutputError(f"`{path}` cannot be written: {error}") from error


def package_size(path: Path) -> int:
    """Bytes of all files of a package."""
    return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())


def _describe(mlmodel: Any, info: PackageInfo, lengths: tuple[int, ...]) -> None:
    mlmodel.short_description = info.description
    mlmodel.author = info.author
    mlmodel.license = info.license
    mlmodel.version = info.version
    for descriptions, given in (
        (mlmodel.input_description, info.inputs),
        (mlmodel.output_description, info.outputs),
    ):
        for name, text in given.items():
            descriptions[name] = text
    keys = mlmodel.user_defined_metadata
    for name in _VOLATILE:
        keys.pop(name, None)
    keys[_LENGTHS_KEY] = ",".join(str(length) for length in lengths)
    if info.labels:
        keys[_LABELS_KEY] = json.dumps(list(info.labels), ensure_ascii=False)
    keys.update(info.user_defined)


def _stable_manifest(path: Path) -> None:
    """Replace the manifest's random identifiers by ones derived from the item's path."""
    file = path / "Manifest.json"
    manifest = json.loads(file.read_text(encoding="utf-8"))
    entries = manifest["itemInfoEntries"]
    renamed = {key: str(uuid.uuid5(uuid.NAMESPACE_URL, entry["path"])) for key, entry in entries.items()}
    manifest["itemInfoEntries"] = {renamed[key]: entry for key, entry in entries.items()}
    manifest["rootModelIdentifier"] = renamed[manifest["rootModelIdentifier"]]
    file.write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n", encoding="utf-8")


def _stable_spec(path: Path) -> None:
    """Serialize the specification again with its maps in key order."""
    from coremltools.proto import Model_pb2

    file = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
    spec = Model_pb2.Model()
    spec.ParseFromString(file.read_bytes())
    file.write_bytes(spec.SerializeToString(deterministic=True))
    file.chmod(0o644)
