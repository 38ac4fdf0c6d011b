"""Files written whole or not at all, paths that stay inside their folder, zips with reproducible bytes."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from edgeq.errors import IntegrityError, OutputError

PAGE_ALIGNMENT = 16384
"""Largest page size of current phones: a stored entry aligned to it can be memory-mapped in place."""

BUNDLE_MARKER = "edgeq.json"
ARCHIVE_SUFFIX = ".edgeq"

MAX_PATH_CHARACTERS = 512
MAX_NAME_CHARACTERS = 200
"""Of a path inside a bundle and of each of its parts: below the limits of every file system in use."""

FORBIDDEN = '<>:"|?*'
"""Characters that no name on Windows has; after a colon NTFS keeps a hidden stream."""
_DEVICE = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|clock\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])", re.IGNORECASE
)
"""Names that mean a device on Windows whatever follows their first dot."""

_LOCAL_HEADER_BYTES = 30
_ZIP64_EXTRA_BYTES = 20
_ALIGNMENT_EXTRA_ID = 0xD935
"""The extra field that Android's zipalign and apksigner pad local headers with."""
_COPY_CHUNK_BYTES = 1 << 20


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: to a hidden neighbour first, then renamed.

    Raises:
        OSError: the folder is missing or not writable, or the disk is full; `path` is then as it was.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        error.filename = str(path)  # nobody has heard of the hidden neighbour
        raise
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp gives 0600; a bundle is read by others too.
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def atomic_write_text(path: Path, text: str) -> None:
    r"""`atomic_write_bytes` of UTF-8 text, with `\n` line ends on every platform."""
    atomic_write_bytes(path, text.encode("utf-8"))


def not_utf8(name: str, error: UnicodeDecodeError, first: int = 1) -> str:
    """Where a text is no UTF-8, in words of every reader.

    Args:
        name: of what holds it.
        error: of decoding its bytes.
        first: number of the line that these begin with.
    """
    before = error.object[: error.start]
    line, position = first + before.count(b"\n"), len(before) - before.rfind(b"\n")
    byte = error.object[error.start]
    return f"line {line} of {name} is not UTF-8: byte 0x{byte:02x} at position {position}"


def contained_path(root: Path, relative: str) -> Path:
    """The path of `relative` inside `root`.

    Raises:
        IntegrityError: as `check_path`, or it goes through a symbolic link.
    """
    check_path(relative)
    path = root
    for part in PurePosixPath(relative).parts:
        path = path / part
        if path.is_symlink():
            raise IntegrityError(f"`{relative}` goes through the symbolic link `{path}`; bundles have none")
    return path


def check_path(relative: str) -> None:
    """Refuse what is no plain path inside a bundle on every system.

    Raises:
        IntegrityError: it is empty, absolute or too long, has `..`, `.`, a backslash, a NUL or a drive letter, or is a
            name that Windows keeps for devices or cannot write.
    """
    problem = _path_problem(relative)
    if problem:
        raise IntegrityError(
            f"unsafe path {relative[:80]!r}: {problem}; expected a plain path inside the bundle"
        )


def _path_problem(relative: str) -> str | None:
    if not relative:
        return "it is empty"
    parts = relative.split("/")
    if len(relative) > MAX_PATH_CHARACTERS or any(len(part) > MAX_NAME_CHARACTERS for part in parts):
        return "it is too long"
    if "\0" in relative:
        return "it has a NUL byte"
    if "\\" in relative:
        return "it has a backslash"
    if relative.startswith("/") or (len(relative) > 1 and relative[1] == ":"):
        return "it is absolute"
    if any(part in ("", ".", "..") for part in parts):
        return "it has an empty, `.` or `..` part"
    return next((problem for part in parts if (problem := _name_problem(part))), None)


def _name_problem(name: str) -> str | None:
    """Why some system cannot have a file of this name."""
    if any(0xD800 <= ord(character) < 0xE000 for character in name):
        return "it is not UTF-8"
    if any(character < " " or character in FORBIDDEN for character in name):
        return "it has a character that Windows does not allow"
    if name[-1] in ". ":
        return "a part ends in a dot or a space, which Windows drops"
    if _DEVICE.fullmatch(name.split(".", 1)[0].rstrip(" ")):
        return "it is the name of a Windows device"
    return None


def list_files(root: Path, *, empty_folders: bool = False) -> list[str]:
    """Every file under `root` as sorted POSIX paths, with `empty_folders` also those, with a slash at the end.

    Raises:
        IntegrityError: something is a symbolic link or neither a file nor a folder, is not named in UTF-8, or lies
            deeper than any bundle's files.
    """
    found: list[str] = []
    pending = [""]
    while pending:
        folder = pending.pop()
        with os.scandir(root / folder) as scan:
            entries = list(scan)
        if empty_folders and folder and not entries:
            found.append(folder)
        for entry in entries:
            relative = folder + entry.name
            _check_entry(entry, relative)
            if entry.is_dir(follow_symlinks=False):
                pending.append(relative + "/")
            else:
                found.append(relative)
    return sorted(found)


def _check_entry(entry: os.DirEntry[str], relative: str) -> None:
    shown = relative[:80].encode("utf-8", "backslashreplace").decode()
    if len(relative) > MAX_PATH_CHARACTERS:
        raise IntegrityError(f"`{shown}...` lies deeper than {MAX_PATH_CHARACTERS} characters")
    if shown != relative[:80]:
        raise IntegrityError(f"the name of `{shown}` is not UTF-8")
    if not entry.is_dir(follow_symlinks=False) and not entry.is_file(follow_symlinks=False):
        kind = "a symbolic link" if entry.is_symlink() else "not a regular file"
        raise IntegrityError(f"`{relative}` is {kind}; a bundle has only files and folders")


def check_output(destination: Path, force: bool, *, needed_bytes: int = 0) -> None:
    """Find out before the work, not after it, that a result cannot be written.

    An existing empty folder may be used. With `force`, only what is a bundle (a folder with `edgeq.json`, a
    `.edgeq` file) is ever replaced: never somebody's home folder.

    Args:
        destination: the bundle folder or archive that will be made.
        force: replace an existing bundle.
        needed_bytes: the space that the result needs.

    Raises:
        OutputError: it exists, its parent cannot be written, its name is too long or not UTF-8, or the disk is full.
    """
    _check_name(destination, "--output")
    _check_existing(destination, force)
    parent = _nearest_existing(destination.absolute().parent)
    _check_writable(destination, parent, "--output")
    check_free_space(parent, needed_bytes)


def check_output_file(destination: Path, option: str) -> None:
    """`check_output` of a single file, whose folder has to be there; whether it replaces one is for the caller to say.

    Args:
        destination: the file that will be made.
        option: of the command line that names it.

    Raises:
        OutputError: it is a folder, its own folder is missing or cannot be written, or its name is of no use.
    """
    _check_name(destination, option)
    if destination.is_dir():
        raise OutputError(
            f"cannot write `{destination}`: it is a folder, not a file",
            hint=f"name a file with {option}",
        )
    _check_writable(destination, destination.absolute().parent, option)


def _check_name(destination: Path, option: str) -> None:
    try:
        str(destination).encode()
    except UnicodeEncodeError:
        raise OutputError(
            f"the name of `{destination}` is not UTF-8, which ONNX Runtime cannot open",
            hint=f"choose another {option}",
        ) from None
    if len(destination.name.encode()) > MAX_NAME_CHARACTERS:
        raise OutputError(
            f"the name `{destination.name[:40]}...` has {len(destination.name.encode())} bytes, expected at most "
            f"{MAX_NAME_CHARACTERS}",
            hint=f"choose a shorter {option}",
        )


def _check_writable(destination: Path, parent: Path, option: str) -> None:
    """By making a folder: permissions alone say nothing of read-only disks, and nothing to root."""
    if not parent.is_dir():
        raise OutputError(
            f"cannot write `{destination}`: `{parent}` is not a folder",
            hint=f"choose another place with {option}",
        )
    try:
        os.rmdir(tempfile.mkdtemp(dir=parent, prefix=".edgeq-"))
    except OSError as error:
        raise OutputError(
            f"cannot write `{destination}`: `{parent}` is not writable ({error.strerror})",
            hint=f"choose another place with {option}",
        ) from error


def check_free_space(folder: Path, needed_bytes: int) -> None:
    """Raise OutputError when the disk of `folder` has less than `needed_bytes` free."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise OutputError(
            f"not enough space in `{folder}`: {_megabytes(free)} free, {_megabytes(needed_bytes)} needed",
            hint="free some space, or choose another place with --output",
        )


def _check_existing(destination: Path, force: bool) -> None:
    if destination.is_symlink():
        raise OutputError(f"`{destination}` is a symbolic link; name the real place")
    if not destination.exists() or (destination.is_dir() and not any(destination.iterdir())):
        return
    is_archive = destination.is_file() and destination.suffix == ARCHIVE_SUFFIX
    if not is_archive and not (destination / BUNDLE_MARKER).is_file():
        raise OutputError(
            f"`{destination}` exists and is not a bundle, so it is never replaced, with --force either",
            hint="choose another --output",
        )
    if not force:
        raise OutputError(
            f"`{destination}` exists", hint="pass --force to replace it, or choose another --output"
        )


def _nearest_existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"


def write_zip(
    destination: Path,
    root: Path,
    names: Sequence[str],
    *,
    alignment: int = PAGE_ALIGNMENT,
    replace: bool = True,
) -> None:
    """Store files in a zip whose bytes depend on nothing but their names, order and contents.

    Entries are uncompressed and start at multiples of `alignment`, so that an app can memory-map them inside
    the archive; times are 1980-01-01 and modes 0644. The zip appears whole or not at all.

    Args:
        destination: the zip to write.
        root: the folder the names are relative to.
        names: POSIX paths, in the order they are stored.
        alignment: in bytes, at most 32768 (the padding lives in a 16-bit extra field).
        replace: a file that is there.

    Raises:
        FileExistsError: something is there, and is not to be replaced.
    """
    descriptor, name = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name}.", suffix=".tmp")
    os.close(descriptor)
    temporary = Path(name)
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for entry in names:
                _store(archive, root / entry, entry, alignment)
        temporary.chmod(0o644)
        _put(temporary, destination, replace)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _put(temporary: Path, destination: Path, replace: bool) -> None:
    if replace:
        temporary.replace(destination)
        return
    # Of two who get here at once only one makes it.
    destination.open("xb").close()
    try:
        temporary.replace(destination)
    except BaseException:
        destination.unlink(missing_ok=True)
        raise


def _store(archive: zipfile.ZipFile, path: Path, name: str, alignment: int) -> None:
    info = reproducible_zip_info(name)
    info.file_size = path.stat().st_size
    large = info.file_size >= zipfile.ZIP64_LIMIT // 2
    assert archive.fp is not None
    header = _LOCAL_HEADER_BYTES + len(name.encode("utf-8")) + (_ZIP64_EXTRA_BYTES if large else 0)
    info.extra = _alignment_extra(archive.fp.tell() + header, alignment)
    with path.open("rb") as source, archive.open(info, "w", force_zip64=large) as target:
        shutil.copyfileobj(source, target, _COPY_CHUNK_BYTES)
    # Only the local header is padded; the central directory would grow by the same for nothing.
    info.extra = b""


def reproducible_zip_info(name: str) -> zipfile.ZipInfo:
    """A stored regular file, mode 0644, dated 1980-01-01, the same on every platform."""
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.compress_type = zipfile.ZIP_STORED
    info.create_system = 3  # Unix; zipfile would write 0 on Windows
    info.external_attr = 0o100644 << 16
    return info


def _alignment_extra(offset: int, alignment: int) -> bytes:
    """Id, size, alignment, zeros: after it, data from `offset` on starts at a multiple of `alignment`."""
    fixed = 6
    padding = -(offset + fixed) % alignment
    size = 2 + padding
    return (
        _ALIGNMENT_EXTRA_ID.to_bytes(2, "little")
        + size.to_bytes(2, "little")
        + (alignment & 0xFFFF).to_bytes(2, "little")
        + bytes(padding)
    )
