"""A GGUF file opened and checked: metadata as plain values, tensors as rows of bytes that are mapped, not read.

The `gguf` package parses the file; what a damaged or hostile file could make of that (counts that exhaust memory,
tensors beyond the end) is refused before or caught here. Format: gguf.md of ggml.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.errors import MissingExtraError, ModelError, UnsupportedError
from edgeq.exporters.gguf.header import check_header
from edgeq.families.gguf_file import GgufFile, GgufTensor


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
