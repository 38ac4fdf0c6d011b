"""Which files a bundle has and their hashes: made by the writer, checked by every reader before it loads."""

from __future__ import annotations

from pathlib import Path

from edgeq.bundle.manifest import FileEntry, Integrity
from edgeq.errors import IntegrityError
from edgeq.files import BUNDLE_MARKER, contained_path, list_files, sha256_file

SUMS_FILE = "SHA256SUMS"
UNLISTED = (BUNDLE_MARKER, SUMS_FILE)
"""What a bundle has beside the files that its manifest lists."""


def measure(folder: Path) -> Integrity:
    """Size and SHA-256 of every file but `edgeq.json` and `SHA256SUMS`, sorted by path."""
    paths = [path for path in list_files(folder) if path not in UNLISTED]
    return Integrity(tuple(_entry(folder, path) for path in paths))


def sums_text(folder: Path, integrity: Integrity) -> str:
    """The contents of `SHA256SUMS`, for `sha256sum --check`: every file but itself, sorted by path."""
    sums = {entry.path: entry.sha256 for entry in integrity.files}
    sums[BUNDLE_MARKER] = sha256_file(folder / BUNDLE_MARKER)
    return "".join(f"{sums[path]}  {path}\n" for path in sorted(sums))


def check_listing(folder: Path, integrity: Integrity) -> None:
    """Raise IntegrityError unless the folder has exactly the listed files, with their sizes."""
    listed = {entry.path for entry in integrity.files}
    for entry in integrity.files:
        path = contained_path(folder, entry.path)
        if entry.path in UNLISTED:
            raise IntegrityError(f"integrity.files lists `{entry.path}`, which cannot hold its own hash")
        if not path.is_file():
            raise IntegrityError(f"the file `{entry.path}` is missing from the bundle `{folder}`")
        if path.stat().st_size != entry.size:
            raise IntegrityError(
                f"the file `{entry.path}` has {path.stat().st_size} bytes; the manifest says {entry.size}"
            )
    for found in list_files(folder, empty_folders=True):
        if found.endswith("/"):
            raise IntegrityError(
                f"the empty folder `{found}` is not listed in the manifest of `{folder}`",
                hint=f"remove it: rmdir '{folder / found}'",
            )
        if found not in listed and found not in UNLISTED:
            raise IntegrityError(
                f"the file `{found}` is not listed in the manifest of `{folder}`",
                hint=f"remove it if it is harmless: rm '{folder / found}'",
            )


def check_hashes(folder: Path, integrity: Integrity) -> None:
    """Raise IntegrityError unless every file, `edgeq.json` included, has its recorded SHA-256."""
    for entry in integrity.files:
        actual = sha256_file(contained_path(folder, entry.path))
        if actual != entry.sha256:
            raise IntegrityError(
                f"the file `{entry.path}` was changed: its SHA-256 is {actual[:16]}..., "
                f"expected {entry.sha256[:16]}...",
                hint="get the bundle again, or export it again",
            )
    _check_sums(folder, integrity)


def _check_sums(folder: Path, integrity: Integrity) -> None:
    path = contained_path(folder, SUMS_FILE)
    if not path.is_file():
        raise IntegrityError(f"the file `{SUMS_FILE}` is missing from the bundle `{folder}`")
    if path.read_bytes() != sums_text(folder, integrity).encode("utf-8"):
        raise IntegrityError(
            f"`{BUNDLE_MARKER}` or `{SUMS_FILE}` was changed: they do not agree with each other",
            hint="get the bundle again, or export it again",
        )


def _entry(folder: Path, path: str) -> FileEntry:
    file = folder / path
    return FileEntry(path, file.stat().st_size, sha256_file(file))
