"""Zip archives that may come from anyone, opened without believing their directory."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_DIRECTORY_BYTES = 2 << 20
"""Of the list of entries, which is read as a whole: of bundles and `.npz` files it takes some kilobytes."""
MALFORMED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError)
"""What zipfile raises for damaged archives, beside ValueError."""


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """An archive whose directory is not larger than `MAX_DIRECTORY_BYTES`.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is no zip archive, or damaged; so is what reading its entries raises.
    """
    with io.BufferedReader(_BoundedFile(path)) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                yield archive
        except MALFORMED as error:
            raise ValueError(str(error) or type(error).__name__) from error


class _BoundedFile(io.FileIO):
    """A file of which no more is read at once than a directory may have: zipfile reads that in one go."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb")

    def read(self, size: int | None = -1, /) -> bytes:
        """Some bytes, or BadZipFile where more are asked for at once."""
        self._check(size)
        return super().read(size) or b""

    def readinto(self, buffer: object, /) -> int:
        """As `read`."""
        self._check(memoryview(buffer).nbytes)  # type: ignore[arg-type]
        return super().readinto(buffer) or 0  # type: ignore[arg-type]

    def _check(self, size: int | None) -> None:
        if size is not None and size > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(
                f"{size} bytes are to be read at once, expected at most {MAX_DIRECTORY_BYTES}"
            )
