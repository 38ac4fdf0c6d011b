"""Initializers whose values lie in files and are read a piece at a time: a graph of any size fits in memory.

Passes that treat a weight as a matrix of its own (transpose it, store it in half precision, compare it) ask for another
such tensor instead of reading the values.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from typing import IO

import numpy as np
import onnx_ir as ir

from edgeq.types import Array

HELD_BYTES = 256_000_000
"""A graph whose streamed weights take more than this in float32 is never held, run or saved whole."""


class StreamedTensor(ir.LazyTensor):
    """An ONNX tensor that is read when it is asked for, and kept by nobody.

    `numpy()` reads all of it; `pieces()` and `tofile()` a few megabytes at a time.

    Args:
        dtype: as the graph has it.
        shape: of the tensor.
        name: of the initializer.
    """

    def __init__(self, dtype: ir.DataType, shape: Sequence[int], name: str) -> None:
        super().__init__(self._read, dtype, ir.Shape(shape), name=name)

    @property
    @abstractmethod
    def origin(self) -> Hashable:
        """What it is made of: tensors of equal origin have equal values."""

    @abstractmethod
    def pieces(self) -> Iterator[Array]:
        """The values in row-major order as 1-D arrays.

        Raises:
            ModelError: a file is missing or ends early.
        """

    @abstractmethod
    def transposed(self) -> StreamedTensor:
        """The transposed matrix, unread."""

    @abstractmethod
    def stacked_on(self, others: Sequence[StreamedTensor]) -> StreamedTensor:
        """Its rows and then those of others, unread.

        Raises:
            ModelError: they have another width.
        """

    @abstractmethod
    def as_float16(self) -> StreamedTensor:
        """The same values in half precision, unread.

        Raises:
            UnsupportedError: a value is beyond float16; this is found by reading the tensor once.
        """

    def values(self) -> Array:
        """All values, in the tensor's shape."""
        values: Array = np.empty(self.size, self.dtype.numpy())
        done = 0
        for piece in self.pieces():
            values[done : done + piece.size] = piece
            done += piece.size
        return values.reshape(self.shape.numpy())

    def tofile(self, file: IO[bytes]) -> None:
        """Write the values a piece at a time."""
        for piece in self.pieces():
            file.write(np.ascontiguousarray(piece).data)

    def _read(self) -> ir.TensorProtocol:
        return ir.Tensor(self.values(), self.dtype, shape=self.shape, name=self.name)


def is_too_large(model: ir.Model) -> bool:
    """Whether a graph refers to more weights than are held in memory (`HELD_BYTES`)."""
    tensors = (streamed(value) for value in model.graph.initializers.values())
    return sum(4 * tensor.size for tensor in tensors if tensor is not None) > HELD_BYTES


def streamed(value: ir.Value | None) -> StreamedTensor | None:
    """The streamed tensor behind a value; None where there is no constant, or one in memory."""
    tensor = None if value is None else value.const_value
    return tensor if isinstance(tensor, StreamedTensor) else None
