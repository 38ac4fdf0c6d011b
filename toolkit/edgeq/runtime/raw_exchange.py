"""Tensors as plain files, for a runner without numpy.

A folder with one line per tensor in `request.txt` and, written by the runner, `response.txt`:

    option graph_optimization_level LEVEL     (request only, first line)
    onnxruntime VERSION                       (response only, first line)
    BATCH DTYPE RANK DIM... FILE NAME         (NAME to the end of the line)

DTYPE is a numpy name; FILE lies in the same folder and holds the elements in C order, little-endian.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeq.errors import EdgeqError
from edgeq.onnx_runtime import DEFAULT_LEVEL, OptimizationLevel
from edgeq.types import Array, Feeds, Outputs

REQUEST = "request.txt"
RESPONSE = "response.txt"
DTYPES = tuple(
    "float32 float16 float64 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool".split()  # noqa: SIM905
)


def write_request(folder: Path, batches: Sequence[Feeds], level: OptimizationLevel = DEFAULT_LEVEL) -> None:
    """Write how the session is to be opened, and the inputs of every batch, into a new `folder`.

    Raises:
        EdgeqError: an input has a type the exchange does not know.
    """
    folder.mkdir(parents=True)
    lines = [
        _write_tensor(folder, batch, f"in{batch}_{index}.bin", name, np.asarray(value))
        for batch, feeds in enumerate(batches)
        for index, (name, value) in enumerate(feeds.items())
    ]
    head = f"option graph_optimization_level {level}"
    (folder / REQUEST).write_text("".join(f"{line}\n" for line in (head, *lines)), encoding="utf-8")


def read_response(folder: Path, count: int) -> tuple[str, list[Outputs]]:
    """The runtime's version, and the outputs of `count` batches.

    Raises:
        EdgeqError: the response is missing, malformed or incomplete.
    """
    try:
        version, outputs = _parse_response(folder, count)
    except (OSError, ValueError, IndexError) as error:
        raise EdgeqError(f"the runner's response `{RESPONSE}` cannot be read: {error}") from error
    if empty := [index for index, found in enumerate(outputs) if not found]:
        raise EdgeqError(f"the runner returned nothing for batches {empty}, expected {count} batches")
    return version, outputs


def _parse_response(folder: Path, count: int) -> tuple[str, list[Outputs]]:
    head, *lines = (folder / RESPONSE).read_text(encoding="utf-8").splitlines()
    word, version = head.split(" ", 1)
    if word != "onnxruntime":
        raise ValueError(f"first line `{head}`, expected `onnxruntime VERSION`")
    outputs: list[Outputs] = [{} for _ in range(count)]
    for line in lines:
        batch, name, value = _read_tensor(folder, line)
        if batch not in range(count):
            raise ValueError(f"batch {batch} in `{line}`, expected 0 to {count - 1}")
        outputs[batch][name] = value
    return version, outputs


def _write_tensor(folder: Path, batch: int, file: str, name: str, value: Array) -> str:
    if value.dtype.name not in DTYPES:
        raise EdgeqError(f"input `{name}` is {value.dtype.name}, expected one of {', '.join(DTYPES)}")
    if sys.byteorder == "big":
        value = value.byteswap()
    (folder / file).write_bytes(np.ascontiguousarray(value).tobytes())
    dims = "".join(f"{dim} " for dim in value.shape)
    return f"{batch} {value.dtype.name} {value.ndim} {dims}{file} {name}"


def _read_tensor(folder: Path, line: str) -> tuple[int, str, Array]:
    batch, dtype, rank, rest = line.split(" ", 3)
    if dtype not in DTYPES:
        raise ValueError(f"type `{dtype}` in `{line}`")
    *dims, file, name = rest.split(" ", int(rank) + 1)
    if "/" in file or file.startswith("."):
        raise ValueError(f"file `{file}` outside the folder")
    value = np.frombuffer((folder / file).read_bytes(), np.dtype(dtype).newbyteorder("<"))
    return int(batch), name, value.astype(dtype).reshape([int(dim) for dim in dims])
