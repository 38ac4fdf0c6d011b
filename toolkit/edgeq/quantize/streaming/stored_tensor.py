"""A tensor where it lies in a file, read a piece at a time: memory does not depend on the tensor's size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import FileIO
from math import prod
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.errors import ModelError, UnsupportedError
from edgeq.types import Array, FloatArray

if TYPE_CHECKING:
    import onnx_ir as ir

CHUNK_ELEMENTS = 1 << 18
"""Values read at a time: 1 MB as float32, which stays in cache; larger pieces take twice as long to quantize."""

STORAGE: dict[str, np.dtype[Any]] = {
    # numpy has no bfloat16: its bits are the upper half of a float32.
    "bfloat16": np.dtype("<u2"),
    "float16": np.dtype("<f2"),
    "float32": np.dtype("<f4"),
    "float64": np.dtype("<f8"),
    "int64": np.dtype("<i8"),
    "int32": np.dtype("<i4"),
    "int16": np.dtype("<i2"),
    "int8": np.dtype("i1"),
    "uint8": np.dtype("u1"),
    "bool": np.dtype("bool"),
}
"""How a type's values are read from the file."""
FLOATS = ("bfloat16", "float16", "float32", "float64")

# Exponent bits all set (NaN or infinite) and the type of the same width that magnitudes compare in.
_MAGNITUDES: dict[str, tuple[type, int]] = {
    "bfloat16": (np.uint16, 0x7F80),
    "float16": (np.uint16, 0x7C00),
    "float32": (np.uint32, 0x7F800000),
    "float64": (np.uint64, 0x7FF0000000000000),
}
_ONNX_NAMES = {"float32": "FLOAT", "float64": "DOUBLE"}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies, in row-major little-endian bytes.

    Attributes:
        name: for messages, and the name of its reference.
        path: the file.
        offset: of its first byte.
        dtype: a key of `STORAGE`; others can be listed but not read.
        shape: as stored.
    """

    name: str
    path: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def from_reference(cls, tensor: ir.ExternalTensor) -> StoredTensor:
        """What an ONNX external reference points at.

        Raises:
            ModelError: the reference leaves its folder, or its length is not that of its shape.
        """
        location = PurePath(str(tensor.location))
        if location.is_absolute() or ".." in location.parts:
            raise ModelError(f"weights of `{tensor.name}` are said to lie in `{location}`, outside the model")
        names = {onnx: name for name, onnx in _ONNX_NAMES.items()}
        dtype = names.get(tensor.dtype.name, tensor.dtype.name.lower())
        shape = tuple(int(dim) for dim in tensor.shape if isinstance(dim, int))
        found = cls(str(tensor.name), Path(tensor.base_dir) / location, tensor.offset or 0, dtype, shape)
        if tensor.length is not None and tensor.length != found.nbytes:
            raise ModelError(
                f"`{tensor.name}` has {tensor.length} bytes, expected {found.nbytes} for {dtype} {list(shape)}"
            )
        return found

    def reference(self, name: str | None = None) -> ir.ExternalTensor:
        """An ONNX external tensor that points at the same bytes; nothing is read.

        Raises:
            UnsupportedError: ONNX has no such type.
        """
        import onnx_ir as ir

        self._require_readable()
        return ir.ExternalTensor(
            self.path.name,
            self.offset,
            self.nbytes,
            ir.DataType[_ONNX_NAMES.get(self.dtype, self.dtype.upper())],
            shape=ir.Shape(self.shape),
            name=name or self.name,
            base_dir=self.path.parent,
        )

    @property
    def size(self) -> int:
        """Number of values."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.size * self._require_readable().itemsize

    def part(self, start: int, stop: int) -> StoredTensor:
        """Some entries along the first axis, unread.

        Raises:
            ValueError: it has no such entries.
        """
        if not self.shape or not 0 <= start < stop <= self.shape[0]:
            raise ValueError(f"entries {start} to {stop} of `{self.name}` {list(self.shape)}")
        entry_bytes = prod(self.shape[1:]) * self._require_readable().itemsize
        return replace(self, offset=self.offset + start * entry_bytes, shape=(stop - start, *self.shape[1:]))

    def pieces(self, max_elements: int = CHUNK_ELEMENTS) -> Iterator[Array]:
        """The values in order as 1-D arrays of the storage type.

        Raises:
            ModelError: the file is missing or ends early.
        """
        with self._open() as file:
            for start in range(0, self.size, max_elements):
                yield self._read(file, start, min(max_elements, self.size - start))

    def float_pieces(self, max_elements: int = CHUNK_ELEMENTS) -> Iterator[FloatArray]:
        """The values in order as 1-D float32 arrays."""
        return (self._to_float32(piece) for piece in self.pieces(max_elements))

    def rows(self, *, transposed: bool = False, max_elements: int = CHUNK_ELEMENTS) -> Iterator[FloatArray]:
        """Whole rows `[n, columns]` as float32, from the first to the last.

        Args:
            transposed: rows of the transposed matrix, gathered from the file without reading it whole.
            max_elements: values per piece; at least one row is read.

        Raises:
            ModelError: it is not a matrix, or the file is missing or ends early.
        """
        if len(self.shape) != 2 or 0 in self.shape:
            raise ModelError(f"`{self.name}` has shape {list(self.shape)}; expected a matrix")
        count, width = reversed(self.shape) if transposed else self.shape
        step = max(1, max_elements // width)
        with self._open() as file:
            for start in range(0, count, step):
                rows = min(step, count - start)
                if transposed:
                    yield self._columns(file, start, rows)
                else:
                    yield self._to_float32(self._read(file, start * width, rows * width)).reshape(rows, width)

    def entries(self, indices: Sequence[int]) -> Array:
        """Some entries along the first axis in the storage type, in the order asked for.

        Raises:
            ModelError: the file is missing or ends early.
            IndexError: there is no such entry.
        """
        size = prod(self.shape[1:])
        found: Array = np.empty((len(indices), size), self._require_readable())
        with self._open() as file:
            for place, index in enumerate(indices):
                if not 0 <= index < self.shape[0]:
                    raise IndexError(f"entry {index} of `{self.name}` {list(self.shape)}")
                self._fill(file, index * size, found[place])
        return found.reshape(len(indices), *self.shape[1:])

    def take(self, indices: Sequence[int]) -> FloatArray:
        """`entries` as float32."""
        return self._to_float32(self.entries(indices))

    def peak(self) -> float:
        """The largest magnitude; reads the tensor once.

        Raises:
            ModelError: a value is NaN or infinite.
        """
        self._require_readable()
        if self.dtype not in _MAGNITUDES:
            raise UnsupportedError(f"`{self.name}` holds {self.dtype}; expected one of {', '.join(FLOATS)}")
        unsigned, exponent = _MAGNITUDES[self.dtype]
        magnitude = unsigned(np.iinfo(unsigned).max >> 1)
        largest = 0
        for number, piece in enumerate(self.pieces()):
            # Magnitudes of floats order as their bits do, once the sign is gone.
            top = int((piece.view(unsigned) & magnitude).max(initial=0))
            if top >= exponent:
                raise _not_finite(self, number * CHUNK_ELEMENTS)
            largest = max(largest, top)
        bits = np.array([largest], unsigned).view(STORAGE[self.dtype])
        return float(self._to_float32(bits)[0]) if self.dtype != "float64" else float(bits[0])

    def _columns(self, file: FileIO, start: int, count: int) -> FloatArray:
        """Columns `start` to `start + count` as rows, `[count, height]`."""
        height, width = self.shape
        slab = np.empty((height, count), STORAGE[self.dtype])
        for row in range(height):
            self._fill(file, row * width + start, slab[row])
        return self._to_float32(np.ascontiguousarray(slab.T))

    def _read(self, file: FileIO, first: int, count: int) -> Array:
        values: Array = np.empty(count, STORAGE[self.dtype])
        self._fill(file, first, values)
        return values

    def _fill(self, file: FileIO, first: int, values: Array) -> None:
        file.seek(self.offset + first * values.itemsize)
        view = values.data.cast("B")
        done = 0
        # One read may return less than asked for (2 GiB at most on Linux).
        while done < len(view):
            count = file.readinto(view[done:])
            if not count:
                raise ModelError(
                    f"`{self.path.name}` ends inside `{self.name}`: {self.path.stat().st_size} bytes, expected at "
                    f"least {self.offset + self.nbytes}",
                    hint="the file is truncated or changed while it was read; download the weights again",
                )
            done += count

    def _open(self) -> FileIO:
        self._require_readable()
        try:
            # Unbuffered: pieces are large, and a buffer would copy them once more.
            return FileIO(self.path)
        except FileNotFoundError as error:
            raise ModelError(f"weights of `{self.name}` are missing: no file `{self.path}`") from error

    def _require_readable(self) -> np.dtype[Any]:
        if self.dtype not in STORAGE:
            raise UnsupportedError(
                f"`{self.name}` holds {self.dtype}; expected one of {', '.join(STORAGE)}",
                hint="start from the float checkpoint, not from one that is quantized already",
            )
        return STORAGE[self.dtype]

    def _to_float32(self, values: Array) -> FloatArray:
        if self.dtype == "bfloat16":
            return np.left_shift(values, np.uint32(16), dtype=np.uint32).view(np.float32)
        return values.astype(np.float32, copy=False)


def _not_finite(tensor: StoredTensor, first: int) -> ModelError:
    return ModelError(
        f"`{tensor.name}` of `{tensor.path.name}` holds NaN or infinite values "
        f"(the first after value {first} of {tensor.size})",
        hint="the checkpoint is damaged; download it again or use an earlier one",
    )
