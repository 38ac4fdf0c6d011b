"""A safetensors file written a tensor at a time: the header is known before the first one.

Checkpoints that come quantized are unpacked into such a file; it can be larger than memory.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from edgeq.errors import ModelError, OutputError
from edgeq.types import Array

if TYPE_CHECKING:
    from edgeq.quantize.streaming import StoredTensor

NUMPY = {"F16": np.float16, "F32": np.float32}
"""Types that arrays are written in."""
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""Bytes of a value, by the name that safetensors has for its type."""
ALIGNMENT = 8


class DenseFile:
    """A file being written; a context manager.

    Args:
        path: of the file.
        plan: type and shape by name, in the order of the file.
    """

    def __init__(self, path: Path, plan: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        self._path, self._plan = path, plan
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        self._starts: dict[str, int] = {}
        at = 0
        for name, (kind, shape) in plan.items():
            end = at + SIZES[kind] * prod(shape)
            header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, end]}
            self._starts[name] = at
            at = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % ALIGNMENT)
        self._header = struct.pack("<Q", len(text)) + text
        self._total = at

    def __enter__(self) -> Self:
        needed, free = self._total, shutil.disk_usage(self._path.parent).free
        if needed > free:
            raise OutputError(
                f"the dequantized model takes {needed / 1e9:.1f} GB in `{self._path.parent}`, which has "
                f"{free / 1e9:.1f} GB",
                hint="free some space there, or choose another --output",
            )
        self._file = self._path.open("wb")
        self._file.write(self._header)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, name: str, values: Array) -> None:
        """An array at its place, in the type of the plan.

        Raises:
            ModelError: it has another shape than the plan.
        """
        kind, shape = self._plan[name]
        if values.shape != shape:
            raise ModelError(f"`{name}` has shape {list(values.shape)}, expected {list(shape)}")
        self._seek(name)
        for chunk in _chunks(values):
            self._file.write(np.ascontiguousarray(chunk, NUMPY[kind]).tobytes())

    def copy(self, name: str, tensor: StoredTensor) -> None:
        """A tensor of another file at its place, byte for byte."""
        self._seek(name)
        for piece in tensor.pieces():
            self._file.write(piece.tobytes())

    def _seek(self, name: str) -> None:
        self._file.seek(len(self._header) + self._starts[name])


def _chunks(values: Array, rows: int = 4096) -> Iterator[Array]:
    if values.ndim < 2:
        yield values
        return
    for start in range(0, len(values), rows):
        yield values[start : start + rows]
