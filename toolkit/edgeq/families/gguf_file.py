"""An opened GGUF file: metadata as plain values, tensors as rows of bytes that are mapped, not read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.errors import ModelError, UnsupportedError
from edgeq.types import Array

FLOAT_KINDS = ("F32", "F16", "BF16", "F64")


@dataclass(frozen=True, slots=True, eq=False)
class GgufTensor:
    """One tensor of a file.

    Attributes:
        name: as in the file.
        kind: its type, as in `Q4_K`.
        shape: rows last axis: `(out, in)` for a matrix.
        data: the bytes as the file has them, `[rows, bytes]` uint8, or floats `shape`; mapped.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    data: Array

    @property
    def is_float(self) -> bool:
        """Whether its values are plain floats."""
        return self.kind in FLOAT_KINDS

    def dense(self) -> Array:
        """Its values, float32, `shape`.

        Raises:
            UnsupportedError: the installed `gguf` package does not know the type.
        """
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        try:
            # Scales that are infinite are found by who reads the values, not by a warning.
            with np.errstate(invalid="ignore", over="ignore"):
                values = dequantize(self.data, GGMLQuantizationType[self.kind])
        except NotImplementedError as error:
            raise UnsupportedError(
                f"tensor `{self.name}` has type {self.kind}, which is not known"
            ) from error
        return np.ascontiguousarray(values.reshape(self.shape), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class GgufFile:
    """A parsed file.

    Attributes:
        path: of the file.
        metadata: by key; arrays as lists.
        tensors: by name, in the order of the file.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]

    @property
    def architecture(self) -> str:
        """`general.architecture`.

        Raises:
            ModelError: the file does not say.
        """
        found = self.metadata.get("general.architecture")
        if not isinstance(found, str) or not found:
            raise ModelError(f"`{self.path}` does not name its architecture (general.architecture)")
        return found

    def value(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """A metadata value under the architecture's prefix.

        Raises:
            ModelError: it is missing without a default, or of another type.
        """
        full = f"{self.architecture}.{key}"
        found = self.metadata.get(full, default)
        if found is None or isinstance(found, bool) or not isinstance(found, kind):
            shown = "is missing" if found is None else f"is {found!r}"
            raise ModelError(f"`{self.path}`: metadata `{full}` {shown}")
        return found

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number above 0 of the metadata.

        Raises:
            ModelError: it is missing without a default, or something else.
        """
        found = int(self.value(key, int, default))
        if found < 1:
            raise ModelError(
                f"`{self.path}`: metadata `{self.architecture}.{key}` is {found}, expected 1 or more"
            )
        return found

    def number(self, key: str, default: float | None = None) -> float:
        """A float of the metadata as the decimal that was meant: files keep float32, so 1e-5 reads 9.99999975e-06.

        Raises:
            ModelError: it is missing without a default, or no number.
        """
        return float(str(np.float32(self.value(key, (float, int), default))))
