"""Weights a segment is fed with: where they come from, and parts of those too large to hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgeq.quantize.streaming.stacked_rows import StackedRows
from edgeq.types import Array, FloatArray

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.quantize.streaming.weight_store import Codes

BLOCK_ELEMENTS = 1 << 23
"""Values of a part of a large weight, 32 MB."""


class Weight(Protocol):
    """A float weight in the orientation some reader of the graph wants."""

    def values(self) -> Array:
        """All of it."""

    def take(self, indices: Sequence[int]) -> FloatArray:
        """Some rows, `[len(indices), columns]`."""

    def column_blocks(self) -> Iterator[FloatArray]:
        """All columns in order, some at a time: `[rows, n]`."""

    def turned(self) -> Weight:
        """The transposed matrix."""


@dataclass(frozen=True, slots=True, eq=False)
class HeldWeight:
    """An array in memory."""

    array: Array

    def values(self) -> Array:
        """The array."""
        return self.array

    def take(self, indices: Sequence[int]) -> FloatArray:
        """Some rows."""
        return np.asarray(self.array[list(indices)], np.float32)

    def column_blocks(self) -> Iterator[FloatArray]:
        """All columns at once."""
        yield np.asarray(self.array, np.float32)

    def turned(self) -> HeldWeight:
        """The transposed matrix."""
        return HeldWeight(np.ascontiguousarray(self.array.T))


@dataclass(frozen=True, slots=True, eq=False)
class StreamedWeight:
    """A weight in files, read when it is asked for; half precision as float32."""

    rows: StackedRows

    def values(self) -> Array:
        """All of it, read anew."""
        return self.rows.numpy()

    def take(self, indices: Sequence[int]) -> FloatArray:
        """Some rows, of a matrix in its stored order."""
        if self.rows.is_turned:
            return np.asarray(self.values()[list(indices)], np.float32)
        return self.rows.take(indices)

    def column_blocks(self) -> Iterator[FloatArray]:
        """Columns as they are read: cheap where columns are stored rows."""
        for piece in self.rows.rows(transposed=True, max_elements=BLOCK_ELEMENTS):
            yield piece.T

    def turned(self) -> StreamedWeight:
        """The transposed matrix, unread."""
        return StreamedWeight(self.rows.transposed())


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedSource:
    """A quantized weight as the floats it stands for.

    Attributes:
        codes: asked anew each time.
        is_by_rows: the graph has output channels first (tables).
    """

    codes: Codes
    is_by_rows: bool

    def values(self) -> Array:
        """All of it."""
        weight = self.codes().dequantize()
        return np.ascontiguousarray(weight.T) if self.is_by_rows else weight

    def take(self, indices: Sequence[int]) -> FloatArray:
        """Some rows; of a table only those are dequantized."""
        if not self.is_by_rows:
            return np.asarray(self.values()[list(indices)], np.float32)
        return np.ascontiguousarray(self.codes(indices).dequantize().T)

    def column_blocks(self) -> Iterator[FloatArray]:
        """Some output channels at a time."""
        if self.is_by_rows:
            yield self.values()
            return
        rows, columns = self.codes.shape
        step = max(1, BLOCK_ELEMENTS // rows)
        for start in range(0, columns, step):
            yield self.codes(range(start, min(start + step, columns))).dequantize()

    def turned(self) -> QuantizedSource:
        """The transposed matrix."""
        return QuantizedSource(self.codes, not self.is_by_rows)


def weight_of_tensor(tensor: ir.TensorProtocol) -> Weight:
    """The weight an initializer holds."""
    if not isinstance(tensor, StackedRows):
        return HeldWeight(tensor.numpy())
    # Stored halves are read as float32 whatever the graph declares.
    return StreamedWeight(StackedRows(tensor.parts, tensor.name, is_turned=tensor.is_turned))
