"""A graph written with its weights in a file beside it, copied a piece at a time from wherever they are."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgeq.errors import ModelError, UnsupportedError
from edgeq.files import check_free_space
from edgeq.graph.streamed_tensor import StreamedTensor
from edgeq.quantize.streaming.external_data import ExternalDataWriter, full_disk_as_error
from edgeq.quantize.streaming.stacked_rows import StackedRows
from edgeq.quantize.streaming.stored_tensor import FLOATS, STORAGE, StoredTensor
from edgeq.types import Array

INLINE_BYTES = 1024
"""Smaller constants stay in the graph: shape inference reads them there."""


def save_beside(model: ir.Model, path: Path) -> None:
    """Write `model` to `path`, its weights to `path` + `.data`.

    Both files are written under other names and renamed when they are whole. An existing pair is replaced; were
    the machine to stop in between, there would be no model rather than one with another's weights.

    Args:
        model: initializers are in memory, streamed, or external references; one declared as float32 may refer to
            bfloat16 or float16 bytes, which are converted. Not changed.
        path: the `.onnx` file.

    Raises:
        ModelError: a file of weights is missing or truncated.
        UnsupportedError: a reference to bytes of a type that the graph does not declare.
        OutputError: the disk is full.
    """
    model = model.clone()
    data_path = path.with_name(f"{path.name}.data")
    check_free_space(path.parent, sum(_stored_bytes(value) for value in model.graph.initializers.values()))
    with ExternalDataWriter(data_path) as writer:
        for value in model.graph.initializers.values():
            _externalize(value, writer, data_path)
        _commit(model, path, writer)


def _commit(model: ir.Model, path: Path, writer: ExternalDataWriter) -> None:
    """Write a graph whose weights are in `writer`, and give both files their names."""
    with _temporary_model(path) as temporary:
        with full_disk_as_error(path):
            temporary.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
        # The old graph goes first: were the machine to stop here, no graph would have another's weights.
        path.unlink(missing_ok=True)
        writer.commit()
        temporary.chmod(0o644)
        temporary.replace(path)


def open_by_reference(path: Path) -> ir.Model:
    """A graph whose weights beside it are streamed tensors.

    Raises:
        ModelError: a reference leaves the model's folder.
    """
    model = ir.load(path)
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            stored = StoredTensor.from_reference(tensor)
            value.const_value = StackedRows([stored], name, is_half=stored.dtype == "float16")
    return model


def _stored_bytes(value: ir.Value) -> int:
    """Bytes of an initializer in the data file."""
    tensor = value.const_value
    if tensor is None or tensor.dtype == ir.DataType.STRING:
        return 0
    return int((value.dtype or tensor.dtype).itemsize * tensor.size)


def _externalize(value: ir.Value, writer: ExternalDataWriter, data_path: Path) -> None:
    """Write an initializer's bytes to the data file and point it there."""
    tensor = value.const_value
    if tensor is None:
        raise ModelError(f"`{value.name}` has no value and refers to none")
    is_held = not isinstance(tensor, StreamedTensor | ir.ExternalTensor)
    if is_held and (tensor.nbytes <= INLINE_BYTES or tensor.dtype == ir.DataType.STRING):
        return
    source = _source_of(value, tensor)
    region = writer.reserve(int(source.dtype.itemsize * tensor.size))
    for piece in source.pieces():
        region.write(piece)
    value.const_value = ir.ExternalTensor(
        data_path.name,
        region.offset,
        region.length,
        source.dtype,
        shape=ir.Shape(list(tensor.shape.numpy())),
        name=str(value.name),
        base_dir=data_path.parent,
    )


@dataclass(frozen=True, slots=True)
class _Source:
    """Where bytes come from, and the type they are stored in."""

    dtype: ir.DataType
    pieces: Callable[[], Iterator[Array]] = field(repr=False)


def _source_of(value: ir.Value, tensor: ir.TensorProtocol) -> _Source:
    if isinstance(tensor, StreamedTensor):
        return _Source(tensor.dtype, tensor.pieces)
    if not isinstance(tensor, ir.ExternalTensor):
        return _Source(tensor.dtype, lambda: iter([np.ascontiguousarray(tensor.numpy())]))
    stored = StoredTensor.from_reference(tensor)
    dtype = _declared(value, stored)
    if dtype == tensor.dtype:
        return _Source(dtype, stored.pieces)
    storage = STORAGE["float32" if dtype == ir.DataType.FLOAT else "float16"]
    return _Source(dtype, lambda: (piece.astype(storage) for piece in stored.float_pieces()))


def _declared(value: ir.Value, stored: StoredTensor) -> ir.DataType:
    """The type an initializer has in the graph, which the bytes it refers to may be converted to."""
    assert isinstance(value.const_value, ir.ExternalTensor)
    own = value.const_value.dtype
    if value.dtype is None or value.dtype == own:
        return own
    if value.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16) or stored.dtype not in FLOATS:
        raise UnsupportedError(
            f"`{value.name}` is {value.dtype.name} in the graph and {stored.dtype} in `{stored.path.name}`"
        )
    return value.dtype


@contextmanager
def _temporary_model(path: Path) -> Iterator[Path]:
    """A hidden neighbour of `path` that is gone at the end, unless it was renamed."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
