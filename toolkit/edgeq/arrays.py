"""Arrays in `.npz` files that may come from anyone: no more is read than the file has bytes, and no pickles."""

from __future__ import annotations

import io
import math
import tokenize
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgeq.types import Array
from edgeq.zips import open_zip

MAX_ARRAYS = 4096
MAX_RATIO, MAX_SMALL_BYTES = 64, 128 << 20
"""What a compressed file may unpack to: so many times its own size, or so many bytes (padding shrinks to nothing)."""
MAX_HEADER_BYTES = 4096
_CHUNK = 1 << 20
_MALFORMED = (
    tokenize.TokenError,
    SyntaxError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    RecursionError,
    MemoryError,
)
"""What numpy raises for damaged headers, beside ValueError."""


INPUT_PREFIX = "inputs/"
"""Before the names of model inputs in a bundle's golden files, which hold outputs as well."""


def model_inputs(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays of a file that are model inputs, by name: all, or those that a golden file marks so."""
    marked = {
        name.removeprefix(INPUT_PREFIX): array
        for name, array in arrays.items()
        if name.startswith(INPUT_PREFIX)
    }
    return marked or dict(arrays)


def read_arrays(path: Path) -> dict[str, Array]:
    """Every array of a `.npz` file by name.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is no such file, is damaged, or claims more than it holds.
    """
    try:
        with open_zip(path) as archive:
            entries = archive.infolist()
            _check_sizes(entries, path.stat().st_size)
            return {entry.filename.removesuffix(".npy"): _array(archive, entry) for entry in entries}
    except (*_MALFORMED, ValueError) as error:
        raise ValueError(f"`{path.name}` is not a .npz file of plain arrays: {error}") from error


def _check_sizes(entries: list[zipfile.ZipInfo], file_bytes: int) -> None:
    if len(entries) > MAX_ARRAYS:
        raise ValueError(f"it holds {len(entries)} arrays, expected at most {MAX_ARRAYS}")
    if len({entry.filename for entry in entries}) < len(entries):
        raise ValueError("it holds arrays of the same name")
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > max(MAX_RATIO * file_bytes, MAX_SMALL_BYTES):
        raise ValueError(f"its {file_bytes} bytes claim to unpack to {unpacked}")


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Array:
    stream = _unpacked(archive, entry)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"`{entry.filename}` has the array format {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream, max_header_size=MAX_HEADER_BYTES)
    needed, held = math.prod(shape) * dtype.itemsize, entry.file_size - stream.tell()
    if dtype.hasobject or needed != held or min(shape, default=0) < 0:
        raise ValueError(f"`{entry.filename}` is {dtype} {list(shape)}, of which {held} bytes are there")
    stream.seek(0)
    return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> io.BytesIO:
    """The bytes of an entry, never more than it claims."""
    stream = io.BytesIO()
    with archive.open(entry) as source:
        while piece := source.read(_CHUNK):
            stream.write(piece)
    stream.seek(0)
    return stream
