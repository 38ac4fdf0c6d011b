"""Where edgeq keeps what can be computed or downloaded again."""

from __future__ import annotations

import fnmatch
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeq.errors import OutputError

FOLDER_VARIABLE = "EDGEQ_CACHE"


def cache_folder(cache: Path | None = None) -> Path:
    """`cache`, else $EDGEQ_CACHE, else $XDG_CACHE_HOME/edgeq, else ~/.cache/edgeq; it need not exist.

    Raises:
        OutputError: none of them is given, and this user has no home folder.
    """
    try:
        if cache is not None:
            return cache.expanduser().resolve()
        if chosen := os.environ.get(FOLDER_VARIABLE):
            return Path(chosen).expanduser().resolve()
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return (Path(base).expanduser() / "edgeq").resolve()
    except RuntimeError as error:
        raise OutputError(
            "there is no cache folder: this user has no home folder",
            hint=f"set {FOLDER_VARIABLE} to a folder",
        ) from error


PURPOSES = {
    "calibration": "statistics of calibration runs; made again by the next export",
    "sensitivity": "losses layer by layer; measured again by explain and export --sensitivity",
    "tune": "candidates that tune has measured",
    "arm64-onnxruntime-*": "the ARM64 lane; edgeq doctor --setup arm64 downloads it again",
}
"""What edgeq keeps in its cache folder, by name. Nothing else there is ever removed: the folder may be anybody's."""


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One thing in the cache."""

    name: str
    path: Path
    purpose: str
    files: int
    size_bytes: int


def cache_entries(folder: Path) -> list[CacheEntry]:
    """What edgeq keeps in a cache folder, by name; symbolic links are not followed."""
    if not folder.is_dir():
        return []
    found = []
    for path in sorted(folder.iterdir()):
        purpose = next(
            (text for name, text in PURPOSES.items() if fnmatch.fnmatchcase(path.name, name)), None
        )
        if purpose is not None and path.is_dir() and not path.is_symlink():
            sizes = [file.lstat().st_size for file in path.rglob("*") if not file.is_dir()]
            found.append(CacheEntry(path.name, path, purpose, len(sizes), sum(sizes)))
    return found


def clear(entries: Sequence[CacheEntry]) -> None:
    """Remove entries.

    Raises:
        OSError: a file cannot be removed.
    """
    for entry in entries:
        shutil.rmtree(entry.path)
