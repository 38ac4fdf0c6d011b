"""A GGUF file opened and checked: metadata as plain values, tensors as rows of bytes that are mapped, not read.

The `gguf` package parses the file; what a damaged or hostile file could make of that (counts that exhaust memory,
tensors beyond the end) is refused before or caught here. Format: gguf.md of ggml.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.errors import MissingExtraError, ModelError, UnsupportedError
from edgeq.exporters.gguf.header import check_header
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


def open_gguf(path: Path) -> GgufFile:
    """Read the header of a file, and map its tensors.

    Raises:
        ModelError: it is no GGUF file, is truncated or damaged, or is one part of several.
        UnsupportedError: it holds a tensor type that is not known.
        MissingExtraError: the `gguf` package is not installed.
    """
    check_header(path)
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise MissingExtraError("reading GGUF files", "llm") from error
    try:
        reader = GGUFReader(path)
        metadata = {name: _contents(field) for name, field in reader.fields.items()}
    except Exception as error:  # the package raises whatever it trips over
        if "is not a valid GGMLQuantizationType" in str(error):
            raise UnsupportedError(
                f"`{path}` holds a tensor type that is not known: {error}",
                hint="pip install --upgrade gguf",
            ) from error
        raise ModelError(
            f"`{path}` is a damaged or truncated GGUF file: {type(error).__name__}: {error}",
            hint="download it again, and compare its size with the original's",
        ) from error
    if int(metadata.get("split.count") or 0) > 1:
        raise ModelError(
            f"`{path}` is one of {metadata['split.count']} parts of a model",
            hint="join them: llama-gguf-split --merge FIRST_PART OUTPUT",
        )
    size = path.stat().st_size
    tensors = {}
    for item in reader.tensors:
        tensor = _tensor(path, item, size)
        tensors[tensor.name] = tensor
    _check_layout(path, reader.tensors, int(reader.alignment))
    if not tensors:
        raise ModelError(f"`{path}` holds no tensors")
    return GgufFile(path, metadata, tensors)


def _check_layout(path: Path, items: Iterable[Any], alignment: int) -> None:
    """Every tensor at a place of its own, aligned as the file says: two in one place are one of them twice."""
    end = 0
    for item in sorted(items, key=lambda item: int(item.data_offset)):
        begin = int(item.data_offset)
        if begin % alignment:
            raise ModelError(
                f"`{path}`: tensor `{item.name}` begins at byte {begin}, expected a multiple of {alignment}; the file "
                "is damaged"
            )
        if begin < end:
            raise ModelError(
                f"`{path}`: tensor `{item.name}` begins at byte {begin}, inside the one before it, which ends at "
                f"{end}; the file is damaged"
            )
        end = begin + int(item.n_bytes)


def _contents(field: Any) -> Any:
    found = field.contents()
    return found.item() if isinstance(found, np.generic) else found


def _tensor(path: Path, item: Any, size: int) -> GgufTensor:
    shape = tuple(int(dim) for dim in reversed(item.shape))
    if int(item.data_offset) + int(item.n_bytes) > size:
        raise ModelError(
            f"`{path}`: tensor `{item.name}` ends at byte {int(item.data_offset) + int(item.n_bytes)} of {size}; the "
            "file is truncated",
            hint="download it again",
        )
    return GgufTensor(str(item.name), item.tensor_type.name, shape, item.data)
