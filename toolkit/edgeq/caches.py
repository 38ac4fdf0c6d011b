"""Where edgeq keeps what can be computed or downloaded again."""

from __future__ import annotations

import fnmatch
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeq.errors import OutputError

FOLDER_VARIABLE = "EDGEQ_CACHE"


def cache_folder(cache: Path | None = None) -> Path:
    """`cache`, else $EDGEQ_CACHE, else $XDG_CACHE_HOME/edgeq, else ~/.cache/edgeq; it need not exist.

    Raises:
        OutputError: what is given cannot be a folder, or nothing is and this user has no home folder.
    """
    try:
        if cache is not None:
            return _as_folder(cache, "--cache")
        if chosen := os.environ.get(FOLDER_VARIABLE):
            return _as_folder(Path(chosen), FOLDER_VARIABLE)
        if base := os.environ.get("XDG_CACHE_HOME"):
            return _as_folder(Path(base) / "edgeq", "XDG_CACHE_HOME")
        return Path("~/.cache/edgeq").expanduser().resolve()
    except RuntimeError as error:
        raise OutputError(
            "there is no cache folder: this user has no home folder",
            hint=f"set {FOLDER_VARIABLE} to a folder",
        ) from error


def _as_folder(path: Path, said_by: str) -> Path:
    folder = path.expanduser().resolve()
    # os.path, whose answers are never a PermissionError
    for part in (folder, *folder.parents):
        if os.path.exists(part) and not os.path.isdir(part):
            raise OutputError(
                f"{said_by} asks for the cache folder `{folder}`, but `{part}` is a file",
                hint=f"set {FOLDER_VARIABLE} to a folder",
            )
    return folder


def notice_unusable(
    error: OSError | OutputError, notify: Callable[[str], None], folder: Path | None = None
) -> None:
    """Say, once for each reason, that work goes on without the cache, which only saves time.

    Args:
        error: why it cannot be used.
        notify: receives the notice.
        folder: that cannot be used; `cache_folder()` when None.
    """
    if isinstance(error, OutputError):
        problem = error.message
    else:
        problem = f"`{folder or cache_folder()}` cannot be used ({error.strerror or error})"
    message = f"going on without a cache: {problem}; {FOLDER_VARIABLE} can name another folder"
    if message not in _said:
        _said.add(message)
        notify(message)


_said: set[str] = set()
"""Notices of `notice_unusable`: several caches share the folder, and one notice is enough."""

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
