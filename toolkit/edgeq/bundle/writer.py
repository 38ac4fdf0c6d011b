"""Writes a bundle in a hidden folder beside its destination and renames it: whole or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from edgeq.bundle.integrity import SUMS_FILE, measure, sums_text
from edgeq.bundle.manifest import Manifest
from edgeq.bundle.package import write_model_package
from edgeq.bundle.reader import Bundle, open_bundle
from edgeq.errors import OutputError
from edgeq.files import BUNDLE_MARKER, atomic_write_text, check_output, contained_path, list_files
from edgeq.scratch import hold, is_abandoned, mark, release, remove, remove_abandoned

_UNFINISHED = "edgeq-tmp"
_REPLACED = "edgeq-old"


class BundleWriter:
    """A bundle in the making.

    ```python
    with BundleWriter(Path("out/model-android"), force=False) as writer:
        session.save(writer.path("model/cpu-int8/model.onnx"))
        bundle = writer.commit(manifest)
    ```
    Leaving the block without `commit` (an error, Ctrl-C, SIGTERM) removes everything that was written; what
    was at the destination before stays until the very moment of the commit. Folders of writers that were
    killed outright are removed by the next writer of the same destination.

    Args:
        destination: the bundle's folder.
        force: replace a bundle that is there.
        needed_bytes: refuse at once when the disk has less than this.

    Raises:
        OutputError: on entering, when the destination cannot be written.
    """

    def __init__(self, destination: Path, force: bool = False, *, needed_bytes: int = 0) -> None:
        self.destination = Path(os.path.abspath(destination))
        self.force = force
        self._needed_bytes = needed_bytes
        self._signals = _TerminationAsException()
        self._committed = False
        self._lock: int | None = None
        self.folder = _sibling(self.destination, _UNFINISHED)

    def __enter__(self) -> Self:
        # First: this may put a bundle back that then must not be overwritten.
        _clean_up_after_the_dead(self.destination)
        check_output(self.destination, self.force, needed_bytes=self._needed_bytes)
        self.destination.parent.mkdir(parents=True, exist_ok=True)
        self._signals.install()
        try:
            self.folder.mkdir()
        except BaseException:
            self._signals.restore()
            raise
        self._lock = hold(self.folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not self._committed:
                shutil.rmtree(self.folder, ignore_errors=True)
        finally:
            release(self._lock)
            self._signals.restore()

    def path(self, relative: str) -> Path:
        """Where to write a file of the bundle; its folders are made.

        Raises:
            IntegrityError: the path leaves the bundle.
        """
        path = contained_path(self.folder, relative)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def size_bytes(self, relative: str) -> int:
        """Bytes of a written file, or of everything in a written folder."""
        path = contained_path(self.folder, relative)
        if path.is_file():
            return path.stat().st_size
        return sum((path / name).stat().st_size for name in list_files(path))

    def commit(self, manifest: Manifest) -> Bundle:
        """Add the model package, the manifest and the hashes, and move the bundle to its destination.

        Args:
            manifest: `integrity` is filled in here.

        Raises:
            IntegrityError: the manifest is not one that readers accept (a variant without its file).
            OutputError: the destination came into being meanwhile.
        """
        write_model_package(self.folder, manifest.name, manifest.variants)
        _remove_empty_folders(self.folder)
        manifest = replace(manifest, integrity=measure(self.folder))
        # Nothing is written that could not be read back.
        Manifest.from_json(manifest.to_json())
        atomic_write_text(self.folder / BUNDLE_MARKER, manifest.to_text())
        atomic_write_text(self.folder / SUMS_FILE, sums_text(self.folder, manifest.integrity))
        check_output(self.destination, self.force)
        self._move()
        return open_bundle(self.destination, force=True, verify=False)

    def _move(self) -> None:
        """Swap the new bundle in; if that fails the old one is put back."""
        replaced = _sibling(self.destination, _REPLACED)
        # Without force nothing but an empty folder may be there, and a rename over anything else fails: of two writers
        # who checked at the same time only one succeeds.
        had_old = self.force and self.destination.exists()
        try:
            if had_old:
                self.destination.rename(replaced)
            self.folder.rename(self.destination)
            self._committed = True
        except BaseException as error:
            if had_old and replaced.exists() and not self.destination.exists():
                replaced.rename(self.destination)
            if isinstance(error, OSError):
                check_output(self.destination, self.force)
                raise OutputError(f"cannot write `{self.destination}`: {error.strerror or error}") from error
            raise
        remove(replaced)


def _remove_empty_folders(folder: Path) -> None:
    """Readers refuse them, and archives could not hold them; deepest first."""
    for path, _, _ in os.walk(folder, topdown=False):
        if Path(path) != folder and not os.listdir(path):
            os.rmdir(path)


class _TerminationAsException:
    """Turns SIGTERM and SIGHUP into SystemExit for a while, so that `with` blocks can clean up."""

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}

    def install(self) -> None:
        """Take over signals that nobody handles; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            return
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            # An application's own handler stays in charge.
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                self._previous[number] = signal.signal(number, _exit)

    def restore(self) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()


def _exit(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _sibling(destination: Path, purpose: str) -> Path:
    """A hidden name on the same file system that says whose it is."""
    return destination.with_name(f".{destination.name}.{purpose}.{mark()}")


def _clean_up_after_the_dead(destination: Path) -> None:
    """Remove what killed writers of this destination left; a bundle they were replacing is put back."""
    if not destination.parent.is_dir():
        return
    prefix = f".{destination.name}.{_REPLACED}."
    for path in list(destination.parent.iterdir()):
        if path.name.startswith(prefix) and not destination.exists() and is_abandoned(path):
            path.rename(destination)
    for purpose in (_REPLACED, _UNFINISHED):
        remove_abandoned(destination.parent, f".{destination.name}.{purpose}.")
