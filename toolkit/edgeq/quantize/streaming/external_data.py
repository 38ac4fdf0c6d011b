"""The file beside an ONNX graph that holds its weights, written in one go and renamed when it is whole."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

import numpy as np

from edgeq.errors import OutputError
from edgeq.types import Array

LARGE_BYTES = 1 << 20
LARGE_ALIGNMENT = 1 << 16
"""Large tensors start at multiples of 64 KiB: mapped in place on every system (Windows maps at that granularity)."""
SMALL_ALIGNMENT = 64


@dataclass(slots=True)
class Region:
    """A stretch of the file: reserved with its final length, filled from its start by one or more `write`s.

    Attributes:
        offset: of its first byte.
        length: in bytes.
        path: the file, for messages.
        written: bytes there so far.
    """

    offset: int
    length: int
    path: Path
    _file: IO[bytes] = field(repr=False)
    written: int = 0

    def write(self, data: Array) -> None:
        """Append the array's bytes to this region.

        Raises:
            OutputError: the disk is full.
            ValueError: more than was reserved.
        """
        if self.written + data.nbytes > self.length:
            raise ValueError(f"{self.written + data.nbytes} bytes for a region of {self.length}")
        with full_disk_as_error(self.path):
            self._file.seek(self.offset + self.written)
            _write_all(self._file, np.ascontiguousarray(data).reshape(-1).view(np.uint8).data)
        self.written += data.nbytes


class ExternalDataWriter:
    """Writes `path` under another name, and gives it its own in `commit`; left otherwise, nothing remains.

    Regions are laid out in the order they are reserved, and may be filled in turns: the codes, scales and zero
    points of one weight grow together.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._regions: list[Region] = []

    def __enter__(self) -> Self:
        descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.", suffix=".tmp")
        self.temporary = Path(name)
        # Unbuffered: the file is read back through other descriptors while it grows.
        self._file: IO[bytes] = os.fdopen(descriptor, "wb", buffering=0)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.temporary.unlink(missing_ok=True)

    def reserve(self, length: int) -> Region:
        """The next region, aligned so that it can be mapped."""
        alignment = LARGE_ALIGNMENT if length >= LARGE_BYTES else SMALL_ALIGNMENT
        offset = -(-self.size // alignment) * alignment
        self.size = offset + length
        region = Region(offset, length, self.path, self._file)
        self._regions.append(region)
        return region

    def append(self, data: Array) -> Region:
        """A region with this content."""
        region = self.reserve(data.nbytes)
        region.write(data)
        return region

    def commit(self) -> None:
        """Make everything durable and give the file its name.

        Raises:
            OutputError: the disk is full.
            ValueError: a region was not filled.
        """
        for region in self._regions:
            if region.written != region.length:
                raise ValueError(f"{region.written} of {region.length} bytes written at {region.offset}")
        with full_disk_as_error(self.path):
            os.fsync(self._file.fileno())
            self._file.close()
            # mkstemp gives 0600; a model is read by others too.
            self.temporary.chmod(0o644)
            self.temporary.replace(self.path)


def _write_all(file: IO[bytes], view: memoryview) -> None:
    """One write may take less than it is given (2 GiB at most on Linux)."""
    while view:
        view = view[file.write(view) :]


@contextmanager
def full_disk_as_error(path: object) -> Iterator[None]:
    """Tell a full disk plainly.

    Raises:
        OutputError: the disk (or the user's quota) is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OutputError(
            f"the disk is full, `{path}` could not be written; nothing was left behind",
            hint="free some space, or choose another place for the output",
        ) from error
