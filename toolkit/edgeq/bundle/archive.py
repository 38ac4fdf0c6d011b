"""A bundle as one file, `NAME.edgeq`: a stored, aligned, reproducible zip, and its safe unpacking."""

from __future__ import annotations

import shutil
import stat
import zipfile
from pathlib import Path

from edgeq.errors import IntegrityError
from edgeq.files import (
    ARCHIVE_SUFFIX,
    BUNDLE_MARKER,
    check_free_space,
    check_output,
    contained_path,
    list_files,
    write_zip,
)

_ENCRYPTED = 0x1
_MALFORMED = (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError)


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
    write_zip(destination, bundle_folder, sorted(names, key=lambda name: (name != BUNDLE_MARKER, name)))
    return destination


def unpack_archive(archive_path: Path, folder: Path) -> None:
    """Unpack into an empty folder only what is a plain stored file with a safe path.

    Stored entries cannot expand, and all of them together must fit the archive, so a small file never fills
    the disk.

    Raises:
        IntegrityError: not a zip, or it has an entry that a bundle's archive never has.
        OutputError: the disk has no room.
    """
    try:
        with zipfile.ZipFile(archive_path) as archive:
            entries = archive.infolist()
            _check_entries(entries, archive_path.stat().st_size)
            check_free_space(folder, sum(entry.file_size for entry in entries))
            for entry in entries:
                _extract(archive, entry, folder)
    except (*_MALFORMED, FileExistsError, NotADirectoryError) as error:
        raise IntegrityError(f"`{archive_path}` is not an intact bundle archive: {error}") from error


def _check_entries(entries: list[zipfile.ZipInfo], archive_bytes: int) -> None:
    seen: set[str] = set()
    for entry in entries:
        problem = _entry_problem(entry)
        if entry.filename.casefold() in seen:
            problem = "it is there twice"
        if problem:
            raise IntegrityError(f"the archive entry `{entry.filename[:80]}` is refused: {problem}")
        seen.add(entry.filename.casefold())
    if sum(entry.file_size for entry in entries) > archive_bytes:
        raise IntegrityError("the archive's entries overlap or claim more bytes than the archive has")


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
