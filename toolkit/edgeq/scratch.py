"""Temporary folders: beside the output while something is exported, marked with their makers, and gone after them.

A process that is killed outright cannot remove its float32 model. So every folder's name says whose it is, its maker
holds a lock on it, and whoever next makes one at the same place removes those that nobody holds any more.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
import tempfile
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

_MARK = "edgeq-scratch"
_PREFIX = "edgeq-"


class ScratchFolder:
    """A temporary folder that goes when its block is left, or with the object it was handed to.

    Args:
        purpose: a word, for whoever finds it.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, purpose: str) -> None:
        beside = _beside.get()
        self.path = _in_system_folder(purpose) if beside is None else beside.folder(purpose)
        self._remove = weakref.finalize(self, _release, self.path, hold(self.path))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove it now, unless it was handed on."""
        self._remove()

    def keep_for(self, owner: object) -> None:
        """Stay after the block, until nobody has `owner` any more (or Python ends)."""
        handed = self._remove.detach()
        if handed is not None:
            _, function, arguments, _ = handed
            weakref.finalize(owner, function, *arguments)


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """A `ScratchFolder` for the time of a block."""
    with ScratchFolder(purpose) as scratch:
        yield scratch.path


@contextmanager
def scratch_beside(destination: Path) -> Iterator[None]:
    """While the block runs, temporary folders are made beside `destination`: that disk has room, and people look there.

    Those that killed processes left in the same folder are removed first.
    """
    parent = Path(os.path.abspath(destination)).parent
    remove_abandoned(parent, f".{_MARK}.", hidden=True)
    beside = _Beside(parent, destination.name)
    token = _beside.set(beside)
    try:
        yield
    finally:
        _beside.reset(token)
        beside.remove()


class _Beside:
    """One hidden folder, made when it is first needed, for everything of an export."""

    def __init__(self, parent: Path, name: str) -> None:
        self._parent, self._name = parent, name
        self._made: list[Path] = []
        self._path: Path | None = None
        self._lock: int | None = None

    def folder(self, purpose: str) -> Path:
        """A new folder in it."""
        if self._path is None:
            self._made = [folder for folder in (self._parent, *self._parent.parents) if not folder.exists()]
            self._parent.mkdir(parents=True, exist_ok=True)
            self._path = self._parent / f".{self._name}.{_MARK}.{mark()}"
            self._path.mkdir(mode=0o700)
            self._lock = hold(self._path)
        return Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=self._path))

    def remove(self) -> None:
        """Everything, and the folders above it that were made for it, where nothing else came into them."""
        if self._path is None:
            return
        _release(self._path, self._lock)
        for folder in self._made:
            with contextlib.suppress(OSError):
                folder.rmdir()


_beside: ContextVar[_Beside | None] = ContextVar("beside", default=None)


def _in_system_folder(purpose: str) -> Path:
    folder = Path(tempfile.gettempdir())
    _sweep_once(folder)
    path = folder / f"{_PREFIX}{purpose}.{mark()}"
    path.mkdir(mode=0o700)
    return path


@cache
def _sweep_once(folder: Path) -> None:
    remove_abandoned(folder, _PREFIX)


def mark() -> str:
    """Says whose a folder is: `HOST.PID.RANDOM`, the end of its name."""
    return f"{host()}.{os.getpid()}.{os.urandom(4).hex()}"


def host() -> str:
    """This machine in eight characters."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def remove_abandoned(parent: Path, prefix: str, *, hidden: bool = False) -> None:
    """Remove the folders in `parent` whose makers are dead.

    Args:
        parent: need not exist.
        prefix: what their names begin with; with `hidden`, what is in names that begin with a dot.
        hidden: as above.
    """
    with contextlib.suppress(OSError):
        for path in list(parent.iterdir()):
            ours = (
                path.name.startswith(".") and prefix in path.name if hidden else path.name.startswith(prefix)
            )
            if ours and not path.is_symlink() and is_abandoned(path):
                remove(path)


def is_abandoned(path: Path) -> bool:
    """Whether a process of this machine and user made it and is gone; when in doubt, no."""
    parts = path.name.rsplit(".", 3)
    # On Windows os.kill(pid, 0) would end the process instead of asking after it.
    if len(parts) < 4 or parts[1] != host() or not parts[2].isdigit() or sys.platform == "win32":
        return False
    try:
        return path.lstat().st_uid == os.getuid() and not _is_alive(int(parts[2])) and _is_free(path)
    except OSError:
        return False


def _is_alive(pid: int) -> bool:
    if pid == os.getpid():
        return False  # containers give every process the same number: the lock decides
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def hold(folder: Path) -> int | None:
    """Lock a folder until `release` or the end of this process; None where the system cannot."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def release(lock: int | None) -> None:
    """Give a lock back."""
    if lock is not None:
        with contextlib.suppress(OSError):
            os.close(lock)


def _is_free(folder: Path) -> bool:
    """Whether nobody holds it; processes with the same number in another container do."""
    lock = hold(folder)
    release(lock)
    return lock is not None


def remove(path: Path) -> None:
    """Remove a folder and all that is in it, or a file."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _release(path: Path, lock: int | None) -> None:
    remove(path)
    release(lock)
