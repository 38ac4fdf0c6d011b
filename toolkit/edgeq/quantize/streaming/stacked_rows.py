"""Weights as graphs want them, made of tensors as checkpoints store them: rows of several, turned, in another type."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeq.errors import ModelError, UnsupportedError
from edgeq.graph.streamed_tensor import StreamedTensor
from edgeq.numerics import FP16_MAX
from edgeq.quantize.streaming.stored_tensor import CHUNK_ELEMENTS, FLOATS, StoredTensor
from edgeq.types import Array, FloatArray

TURNED_ELEMENTS = 1 << 22
"""Values of a turned matrix gathered at a time, 16 MB as float32: fewer would make reads of a few bytes each."""
WHOLE_ELEMENTS = 1 << 26
"""Matrices up to this are turned in memory; larger ones by gathering columns."""

_INTEGERS = {"int64": ir.DataType.INT64, "int32": ir.DataType.INT32, "uint8": ir.DataType.UINT8}


class StackedRows(StreamedTensor):
    """Stored tensors stacked along their first axis, floats as float32.

    Args:
        parts: of the same width and type; one part may have any shape.
        name: of the initializer.
        is_turned: the tensor is the transposed matrix.
        is_half: floats as float16 instead.
    """

    def __init__(
        self,
        parts: Sequence[StoredTensor],
        name: str | None = None,
        *,
        is_turned: bool = False,
        is_half: bool = False,
    ) -> None:
        self.parts = tuple(parts)
        self.is_turned, self.is_half = is_turned, is_half
        stored = _stacked_shape(self.parts)
        super().__init__(
            _onnx_type(parts[0], is_half), stored[::-1] if is_turned else stored, name or parts[0].name
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(StackedRows, is_turned=self.is_turned, is_half=self.is_half), (self.parts, self.name)

    @property
    def origin(self) -> Hashable:
        """Parts, orientation and type."""
        return self.parts, self.is_turned, self.dtype

    def transposed(self) -> StackedRows:
        """The transposed matrix, unread."""
        return StackedRows(self.parts, self.name, is_turned=not self.is_turned, is_half=self.is_half)

    def stacked_on(self, others: Sequence[StreamedTensor]) -> StackedRows:
        """Its rows and then those of others, unread."""
        found = [self, *(other for other in others if isinstance(other, StackedRows))]
        if len(found) <= len(others) or any(rows.is_turned or rows.dtype != self.dtype for rows in found):
            raise ModelError(f"`{self.name}` cannot be stacked on tensors of other kinds")
        return StackedRows([part for rows in found for part in rows.parts], self.name, is_half=self.is_half)

    def as_float16(self) -> StackedRows:
        """The same values in half precision; reads them once to see that they fit."""
        largest = self.peak()
        if largest > FP16_MAX:
            raise UnsupportedError(
                f"`{self.name}` holds {largest:.4g}, beyond float16's {FP16_MAX:.0f}",
                hint="use --precision fp32",
            )
        return StackedRows(self.parts, self.name, is_turned=self.is_turned, is_half=True)

    def peak(self) -> float:
        """The largest magnitude.

        Raises:
            ModelError: a value is NaN or infinite.
        """
        return max(part.peak() for part in self.parts)

    def pieces(self) -> Iterator[Array]:
        """The values in row-major order as 1-D arrays."""
        if self.parts[0].dtype not in FLOATS:
            return (piece for part in self.parts for piece in part.pieces())
        values = (
            (rows.reshape(-1) for rows in self.rows())
            if self.is_turned
            else (piece for part in self.parts for piece in part.float_pieces())
        )
        return (piece.astype(np.float16) for piece in values) if self.is_half else values

    def rows(self, *, transposed: bool = False, max_elements: int = CHUNK_ELEMENTS) -> Iterator[FloatArray]:
        """Whole rows `[n, columns]` as float32, from the first to the last.

        Args:
            transposed: rows of the transposed matrix.
            max_elements: values per piece; rows across the stored order come in larger ones.

        Raises:
            ModelError: it is no matrix, or a file is missing or ends early.
        """
        if self.is_turned == transposed:
            for part in self.parts:
                yield from part.rows(max_elements=max_elements)
            return
        largest = max(max_elements, TURNED_ELEMENTS) // len(self.parts)
        turned = [part.rows(transposed=True, max_elements=self._step(largest, part)) for part in self.parts]
        for columns in zip(*turned, strict=True):
            yield columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)

    def _step(self, largest: int, part: StoredTensor) -> int:
        """Values of one part's piece, such that every part gives as many columns."""
        height = max(other.shape[0] for other in self.parts)
        return max(1, largest // height) * part.shape[0]

    def values(self) -> Array:
        """All values: a turned matrix of common size is read in its stored order, which is much faster."""
        if not self.is_turned or self.size > WHOLE_ELEMENTS:
            return super().values()
        stored = StackedRows(self.parts, self.name, is_half=self.is_half).values()
        return np.ascontiguousarray(stored.T)

    def take(self, indices: Sequence[int]) -> FloatArray:
        """Some rows of the stored matrix as float32, in the order asked for.

        Raises:
            ValueError: the matrix is turned.
        """
        if self.is_turned:
            raise ValueError(f"rows of `{self.name}` in its stored order, but it is turned")
        wanted, first = np.asarray(indices, np.int64), 0
        found = np.empty((len(wanted), *self.parts[0].shape[1:]), np.float32)
        for part in self.parts:
            mine = (wanted >= first) & (wanted < first + part.shape[0])
            found[mine] = part.take((wanted[mine] - first).tolist())
            first += part.shape[0]
        return found

    def part(self, start: int, stop: int) -> StackedRows:
        """Some rows of the stored matrix, unread.

        Raises:
            ValueError: the matrix is turned.
        """
        if self.is_turned:
            raise ValueError(f"rows of `{self.name}` in its stored order, but it is turned")
        found, first = [], 0
        for part in self.parts:
            low, high = max(start - first, 0), min(stop - first, part.shape[0])
            if low < high:
                found.append(part.part(low, high))
            first += part.shape[0]
        return StackedRows(found, self.name, is_half=self.is_half)


def _stacked_shape(parts: Sequence[StoredTensor]) -> tuple[int, ...]:
    first = parts[0]
    if len(parts) == 1:
        return first.shape
    for part in parts:
        if len(part.shape) != len(first.shape) or part.shape[1:] != first.shape[1:]:
            raise ModelError(f"`{part.name}` {list(part.shape)} does not stack on {list(first.shape)}")
    return (sum(part.shape[0] for part in parts), *first.shape[1:])


def _onnx_type(stored: StoredTensor, is_half: bool) -> ir.DataType:
    if stored.dtype in FLOATS:
        return ir.DataType.FLOAT16 if is_half else ir.DataType.FLOAT
    if stored.dtype not in _INTEGERS:
        raise UnsupportedError(
            f"`{stored.name}` holds {stored.dtype}; expected one of {', '.join((*FLOATS, *_INTEGERS))}",
            hint="start from the float checkpoint, not from one that is quantized already",
        )
    return _INTEGERS[stored.dtype]


def values_of(stored: StoredTensor) -> Array:
    """A whole stored tensor in its shape, floats as float32; for small ones."""
    pieces = list(stored.float_pieces() if stored.dtype in FLOATS else stored.pieces())
    flat = np.concatenate(pieces) if pieces else np.empty(0, np.float32)
    assert flat.size == prod(stored.shape)
    return flat.reshape(stored.shape)
