"""What crosses from one segment into the next: in memory up to a limit, the rest in a temporary file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import IO, Any, TypeAlias

import numpy as np

from edgeq.types import Array

Values: TypeAlias = dict[str, Array]
"""Values of one batch by name."""


@dataclass(frozen=True, slots=True)
class _Spilled:
    """An array in the file."""

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class ValueStore:
    """The values at one place of a graph, batch by batch.

    Args:
        ram_bytes: most bytes held in memory.
    """

    def __init__(self, ram_bytes: int) -> None:
        self._ram_bytes, self._held = ram_bytes, 0
        self._batches: list[dict[str, Array | _Spilled]] = []
        self._file: IO[bytes] | None = None

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._batches)

    def __getitem__(self, index: int) -> Values:
        """All values of a batch."""
        return {name: self._load(value) for name, value in self._batches[index].items()}

    def __iter__(self) -> Iterator[Values]:
        """Batches in order, read as they are asked for."""
        return (self[index] for index in range(len(self)))

    def get(self, index: int, name: str) -> Array:
        """One value of a batch.

        Raises:
            KeyError: it is not kept here.
        """
        return self._load(self._batches[index][name])

    @property
    def spilled_bytes(self) -> int:
        """Bytes in the file."""
        return 0 if self._file is None else self._file.tell()

    def append(self, values: Values) -> None:
        """Keep one more batch."""
        self._batches.append({name: self._keep(array) for name, array in values.items()})

    def close(self) -> None:
        """Forget everything."""
        self._batches.clear()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _keep(self, array: Array) -> Array | _Spilled:
        if self._held + array.nbytes <= self._ram_bytes or array.size == 0:
            self._held += array.nbytes
            return array
        if self._file is None:
            # Unlinked from the start where the system allows it: nothing is left behind.
            self._file = tempfile.TemporaryFile(prefix="edgeq-values-")  # noqa: SIM115 - closed by close()
        self._file.seek(0, 2)
        place = _Spilled(self._file.tell(), array.dtype, array.shape)
        self._file.write(np.ascontiguousarray(array).data)
        return place

    def _load(self, value: Array | _Spilled) -> Array:
        if not isinstance(value, _Spilled):
            return value
        assert self._file is not None
        self._file.seek(value.offset)
        array: Array = np.empty(prod(value.shape), value.dtype)
        read = self._file.readinto(array.data.cast("B"))  # type: ignore[attr-defined]
        assert read == array.nbytes, f"{read} of {array.nbytes} bytes of a value"
        self._file.seek(0, 2)
        return array.reshape(value.shape)
