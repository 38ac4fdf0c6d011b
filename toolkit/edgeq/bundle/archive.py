"""A bundle as one file, `NAME.edgeq`: a stored, aligned, reproducible zip, and its safe unpacking."""

from __future__ import annotations

import shutil
import stat
import zipfile
from pathlib import Path

from edgeq.bundle.integrity import UNLISTED
from edgeq.bundle.manifest import MAX_MANIFEST_BYTES, Manifest
from edgeq.errors import IntegrityError, OutputError
from edgeq.files import (
    ARCHIVE_SUFFIX,
    BUNDLE_MARKER,
    check_free_space,
    check_output,
    check_path,
    contained_path,
    list_files,
    write_zip,
)
from edgeq.zips import open_zip

_ENCRYPTED = 0x1


def write_archive(bundle_folder: Path, destination: Path | None = None, *, force: bool = False) -> Path:
    """Pack a bundle folder; the manifest comes first, so that a stream can be judged by its beginning.

    Args:
        bundle_folder: a finished bundle.
        destination: by default the folder's name with `.edgeq`, beside it.
        force: replace an existing archive.

    Returns:
        The archive's path.

    Raises:
        OutputError: the archive exists or cannot be written.
    """
    destination = destination or bundle_folder.with_name(bundle_folder.name + ARCHIVE_SUFFIX)
    names = list_files(bundle_folder)
    size = sum((bundle_folder / name).stat().st_size for name in names)
    check_output(destination, force, needed_bytes=size)
    ordered = sorted(names, key=lambda name: (name != BUNDLE_MARKER, name))
    try:
        write_zip(destination, bundle_folder, ordered, replace=force)
    except FileExistsError as error:
        check_output(destination, force)
        raise OutputError(f"`{destination}` came into being meanwhile") from error
    return destination


def unpack_archive(archive_path: Path, folder: Path) -> Manifest:
    """Unpack into an empty folder what the archive's own manifest lists: plain stored files with safe paths.

    Nothing is written before the manifest is read and every entry is one of its files, with its size. Stored entries
    cannot expand, and all of them together must fit the archive, so a small file never fills the disk.

    Returns:
        The manifest, believed only about what may be there: whoever opens the folder verifies the files.

    Raises:
        IntegrityError: not a zip, or it has an entry that a bundle's archive never has.
        OutputError: the disk has no room.
    """
    try:
        with open_zip(archive_path) as archive:
            entries = archive.infolist()
            _check_entries(entries, archive_path.stat().st_size)
            manifest = _check_permitted(archive, entries)
            check_free_space(folder, sum(entry.file_size for entry in entries))
            for entry in entries:
                _extract(archive, entry, folder)
            return manifest
    except (ValueError, FileExistsError, NotADirectoryError) as error:
        raise IntegrityError(f"`{archive_path}` is not an intact bundle archive: {error}") from error


def _check_entries(entries: list[zipfile.ZipInfo], archive_bytes: int) -> None:
    seen: set[str] = set()
    for entry in entries:
        problem = _entry_problem(entry)
        if entry.filename.casefold() in seen:
            problem = "it is there twice"
        if problem:
            raise IntegrityError(f"the archive entry `{entry.filename[:80]}` is refused: {problem}")
        check_path(entry.filename)
        seen.add(entry.filename.casefold())
    if sum(entry.file_size for entry in entries) > archive_bytes:
        raise IntegrityError("the archive's entries overlap or claim more bytes than the archive has")


def _check_permitted(archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo]) -> Manifest:
    """The manifest, after every entry was found in it."""
    sizes = {entry.filename: entry.file_size for entry in entries}
    manifest = _read_manifest(archive, sizes.get(BUNDLE_MARKER))
    permitted = {entry.path: entry.size for entry in manifest.integrity.files}
    for name, size in sizes.items():
        if name not in permitted and name not in UNLISTED:
            raise IntegrityError(f"the archive entry `{name[:80]}` is not listed in its manifest")
        if name in permitted and size != permitted[name]:
            raise IntegrityError(
                f"the archive entry `{name[:80]}` has {size} bytes; the manifest says {permitted[name]}"
            )
    return manifest


def _read_manifest(archive: zipfile.ZipFile, size: int | None) -> Manifest:
    if size is None:
        raise IntegrityError(f"the archive has no `{BUNDLE_MARKER}`: it is not a bundle")
    if size > MAX_MANIFEST_BYTES:
        raise IntegrityError(f"`{BUNDLE_MARKER}` of the archive is larger than {MAX_MANIFEST_BYTES} bytes")
    with archive.open(BUNDLE_MARKER) as stream:
        return Manifest.from_text(stream.read(size))


def _entry_problem(entry: zipfile.ZipInfo) -> str | None:
    # zipfile cuts names at a NUL; what is checked must be what is written.
    if entry.orig_filename != entry.filename:
        return "its name has a NUL byte or a foreign separator"
    if entry.flag_bits & _ENCRYPTED:
        return "it is encrypted"
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        return "it is compressed; bundle archives are stored"
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if entry.is_dir() or kind not in (0, stat.S_IFREG):
        return "it is not a regular file"
    return None


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> None:
    target = contained_path(folder, entry.filename)
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(entry) as source, target.open("xb") as stream:
        shutil.copyfileobj(source, stream, 1 << 20)
