"""Pickled checkpoints (`pytorch_model.bin`) as one safetensors file, so that their weights can be referred to.

Offsets inside a pickle are torch's own affair; a copy on disk, written a piece at a time, costs no memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.errors import ModelError
from edgeq.exporters.pickled import read_pickled
from edgeq.files import check_free_space
from edgeq.quantize.streaming.external_data import full_disk_as_error

if TYPE_CHECKING:
    import torch

CHUNK_BYTES = 1 << 24
_NAMES = {
    "torch.float32": "F32",
    "torch.float64": "F64",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}


def write_as_safetensors(files: Sequence[Path], path: Path) -> None:
    """Copy every tensor of some pickled files.

    Args:
        files: as torch saved them; an index among them is skipped.
        path: the safetensors file.

    Raises:
        ModelError: a file holds anything but plain tensors.
        OutputError: the disk is full.
    """
    pickles = [file for file in files if file.suffix == ".bin"]
    check_free_space(path.parent, sum(file.stat().st_size for file in pickles))
    entries, position = {}, 0
    for name, tensor in _tensors(pickles):
        end = position + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _dtype(name, tensor),
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    header = json.dumps(entries).encode()
    with full_disk_as_error(path), path.open("wb") as out:
        out.write(len(header).to_bytes(8, "little") + header)
        for _, tensor in _tensors(pickles):
            for piece in _bytes_of(tensor):
                out.write(piece)


def _tensors(files: Sequence[Path]) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors, file by file; mapped where the file's format allows it."""
    import torch

    for file in files:
        for name, value in read_pickled(file).items():
            if isinstance(value, torch.Tensor):
                yield name, value


def _dtype(name: str, tensor: torch.Tensor) -> str:
    if str(tensor.dtype) not in _NAMES:
        raise ModelError(f"`{name}` holds {tensor.dtype}; expected one of {', '.join(_NAMES)}")
    return _NAMES[str(tensor.dtype)]


def _bytes_of(tensor: torch.Tensor) -> Iterator[memoryview]:
    import torch

    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    for start in range(0, len(flat), CHUNK_BYTES):
        yield flat[start : start + CHUNK_BYTES].numpy().data
