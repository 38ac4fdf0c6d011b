"""A graph whose weights lie in other files, rewritten with quantized ones.

Each weight is read, quantized and written a piece at a time, so memory does not depend on the model's size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgeq.errors import ModelError, UnsupportedError
from edgeq.files import check_free_space
from edgeq.graph.block_weight import BlockWeight
from edgeq.graph.edit import Editor, attribute
from edgeq.graph.passes.weight_only import (
    LoweredNode,
    lower_weight_only,
    lowered_nodes,
    verify_weight_only,
)
from edgeq.numerics import FP16_MAX
from edgeq.quantize.recipes import LayerSpec
from edgeq.quantize.streaming.external_data import ExternalDataWriter, Region
from edgeq.quantize.streaming.row_quantizer import quantized_rows
from edgeq.quantize.streaming.save import INLINE_BYTES, OnWeight, commit_graph
from edgeq.quantize.streaming.stored_tensor import STORAGE, StoredTensor
from edgeq.quantize.weight_only.base import LayerStats
from edgeq.types import Array


@dataclass(frozen=True, slots=True)
class StreamedModel:
    """What was written.

    Attributes:
        model: the graph.
        data: its weights, beside it.
        nodes: the operators that read quantized weights.
        read_bytes: weights read, each counted once.
        data_bytes: size of `data`.
    """

    model: Path
    data: Path
    nodes: tuple[LoweredNode, ...]
    read_bytes: int
    data_bytes: int


def stream_weights(
    model: ir.Model,
    specs: Mapping[str, LayerSpec],
    path: Path,
    *,
    stats: Mapping[str, LayerStats] | None = None,
    threads: int | None = None,
    on_weight: OnWeight | None = None,
) -> StreamedModel:
    """Write `model` to `path`, its weights to `path` + `.data`, quantizing those that `specs` names.

    Both files are written under other names and renamed when they are whole. An existing pair is replaced; were
    the machine to stop in between, there would be no model rather than one with another's weights.

    Args:
        model: initializers are external references (`StoredTensor.reference`, or those of an ONNX file) or, for
            small ones, values. An initializer declared as float32 may refer to bfloat16 or float16 bytes: they are
            converted as they are copied. Not changed.
        specs: by initializer name: weight-only (any method of `row_quantizer.ROW_METHODS`), fp16 (a Cast is
            added) or fp32. MatMul and Gemm weights may be `[K, N]`, or transposed by `transB` or a Transpose.
        path: the `.onnx` file.
        stats: E[x^2] of the layers' inputs, by initializer name.
        threads: pieces of a weight quantized at the same time; all cores when left out.
        on_weight: told each weight.

    Raises:
        ModelError: a file of weights is missing, truncated or has NaN or infinite values, or a name is not that of
            an initializer.
        UnsupportedError: a format, a method or an operator that cannot be streamed.
        OutputError: the disk is full.
    """
    model = model.clone()
    _check_names(model, specs)
    check_free_space(path.parent, _expected_bytes(model, specs))
    data_path = path.with_name(f"{path.name}.data")
    with ExternalDataWriter(data_path) as writer:
        job = _Rewriting(writer, data_path.name, stats or {}, threads, on_weight or (lambda _: None))
        job.run(model, specs)
        nodes = lowered_nodes(model)
        commit_graph(model, path, writer, lambda written: verify_weight_only(written, nodes))
    return StreamedModel(path, data_path, nodes, job.read_bytes, writer.size)


@dataclass(slots=True)
class _Rewriting:
    writer: ExternalDataWriter
    location: str
    stats: Mapping[str, LayerStats]
    threads: int | None
    on_weight: OnWeight
    read_bytes: int = 0

    def run(self, model: ir.Model, specs: Mapping[str, LayerSpec]) -> None:
        """Write every weight; the graph then refers to them."""
        blocks = {name: spec for name, spec in specs.items() if spec.format == "weight-only"}
        parts = {name: self._quantize(model.graph.initializers[name], spec) for name, spec in blocks.items()}
        halves = [name for name, spec in specs.items() if spec.format == "fp16"]
        regions = {name: self._store_half(model.graph.initializers[name]) for name in halves}
        mapped = _Mapped(self.writer)
        _read_through_cast(model, {name: mapped.array(*region) for name, region in regions.items()})
        lower_weight_only({name: mapped.weight(part) for name, part in parts.items()})(model)
        for value in model.graph.initializers.values():
            self._externalize(value, mapped)

    def _quantize(self, value: ir.Value, spec: LayerSpec) -> _Parts:
        tensor, name = _stored(value), str(value.name)
        self._begin(tensor, name)
        transposed = not _is_by_rows(value)
        count = tensor.shape[1 if transposed else 0]
        parts: _Parts | None = None
        pieces = quantized_rows(
            tensor, spec, transposed=transposed, stats=self.stats.get(name), threads=self.threads
        )
        for piece in pieces:
            parts = parts or _Parts.reserve(self.writer, piece, count)
            parts.write(piece)
        assert parts is not None
        return parts

    def _store_half(self, value: ir.Value) -> tuple[Region, str, tuple[int, ...]]:
        tensor = _stored(value)
        self._begin(tensor, str(value.name))
        largest = tensor.peak()
        if largest > FP16_MAX:
            raise UnsupportedError(
                f"`{tensor.name}` holds {largest:.4g}, beyond float16's {FP16_MAX:.0f}",
                hint="keep it in fp32",
            )
        return self._copy(tensor, "float16"), "float16", tensor.shape

    def _externalize(self, value: ir.Value, mapped: _Mapped) -> None:
        """Point an initializer at its bytes in the data file; write those that are not there yet."""
        tensor = value.const_value
        if tensor is None:
            raise ModelError(f"`{value.name}` has no value and refers to none")
        if isinstance(tensor, ir.ExternalTensor):
            stored = StoredTensor.from_reference(tensor)
            self._begin(stored, str(value.name))
            dtype = _declared(value, stored)
            region = self._copy(stored, dtype)
            offset, length, onnx_type = region.offset, region.length, _onnx_type(dtype)
        elif tensor.nbytes <= INLINE_BYTES or tensor.dtype == ir.DataType.STRING:
            return
        else:
            found = mapped.offset_of(tensor)
            offset = self.writer.append(tensor.numpy()).offset if found is None else found
            length, onnx_type = tensor.nbytes, tensor.dtype
        value.const_value = ir.ExternalTensor(
            self.location,
            offset,
            length,
            onnx_type,
            shape=ir.Shape(list(tensor.shape.numpy())),
            name=str(value.name),
            base_dir=self.writer.path.parent,
        )

    def _copy(self, tensor: StoredTensor, dtype: str) -> Region:
        region = self.writer.reserve(tensor.size * STORAGE[dtype].itemsize)
        pieces = tensor.pieces() if dtype == tensor.dtype else tensor.float_pieces()
        for piece in pieces:
            region.write(piece if dtype == tensor.dtype else piece.astype(STORAGE[dtype]))
        return region

    def _begin(self, tensor: StoredTensor, name: str) -> None:
        self.on_weight(name)
        self.read_bytes += tensor.nbytes


@dataclass(frozen=True, slots=True)
class _Parts:
    """Where the codes, scales and zero points of one weight are, and their shapes."""

    codes: Region
    scales: Region
    zero_points: Region | None
    rows: int
    sample: BlockWeight

    @classmethod
    def reserve(cls, writer: ExternalDataWriter, piece: BlockWeight, rows: int) -> _Parts:
        """Room for `rows` rows like those of `piece`."""

        def room(part: Array) -> Region:
            return writer.reserve(part.nbytes // part.shape[0] * rows)

        zeros = None if piece.zero_points is None else room(piece.zero_points)
        return cls(room(piece.data), room(piece.scales), zeros, rows, piece)

    def write(self, piece: BlockWeight) -> None:
        """Append rows."""
        self.codes.write(piece.data)
        self.scales.write(piece.scales)
        if self.zero_points is not None and piece.zero_points is not None:
            self.zero_points.write(piece.zero_points)


class _Mapped:
    """The data file as arrays, so that passes see weights of their shape; mapped, and hardly any page is read."""

    def __init__(self, writer: ExternalDataWriter) -> None:
        empty = writer.size == 0
        self._bytes: Array = (
            np.empty(0, np.uint8)
            if empty
            else np.memmap(writer.temporary, np.uint8, "r", shape=(writer.size,))
        )

    def array(self, region: Region, dtype: str, shape: tuple[int, ...]) -> Array:
        """A region as an array."""
        found: Array = self._bytes[region.offset : region.offset + region.length].view(dtype).reshape(shape)
        return found

    def weight(self, parts: _Parts) -> BlockWeight:
        """A quantized weight whose arrays are regions of the file."""
        sample = parts.sample
        zeros = None
        if parts.zero_points is not None and sample.zero_points is not None:
            zeros = self.array(parts.zero_points, "uint8", (parts.rows, *sample.zero_points.shape[1:]))
        return BlockWeight(
            self.array(parts.codes, "uint8", (parts.rows, *sample.data.shape[1:])),
            self.array(parts.scales, sample.scales.dtype.name, (parts.rows, *sample.scales.shape[1:])),
            zeros,
            sample.bits,
            sample.block_size,
            sample.in_features,
        )

    def offset_of(self, tensor: ir.TensorProtocol) -> int | None:
        """Where in the file a tensor's memory is; None for one that lies elsewhere."""
        array = tensor.numpy()
        offset = array.ctypes.data - self._bytes.ctypes.data
        inside = self._bytes.size > 0 and offset >= 0 and offset + array.nbytes <= self._bytes.size
        return int(offset) if inside else None


def _check_names(model: ir.Model, specs: Mapping[str, LayerSpec]) -> None:
    for name, spec in specs.items():
        if name not in model.graph.initializers:
            raise ModelError(f"no initializer named `{name}` in the graph")
        if spec.format not in ("weight-only", "fp16", "fp32"):
            raise UnsupportedError(
                f"`{name}` is to be {spec.format}, which needs calibration; streaming offers weight-only, fp16, fp32"
            )
        shape = model.graph.initializers[name].shape
        if spec.format == "weight-only" and (shape is None or len(shape) != 2):
            raise ModelError(f"`{name}` has shape {shape}; expected a matrix to quantize")


def _expected_bytes(model: ir.Model, specs: Mapping[str, LayerSpec]) -> int:
    """Size of the data file, for the check of free space."""
    total = 0.0
    for name, value in model.graph.initializers.items():
        if value.const_value is None:
            continue
        tensor = value.const_value
        bits = 8 * tensor.nbytes / max(1, tensor.size)
        if name in specs and specs[name].format != "fp32":
            dims = tensor.shape.numpy()
            bits = specs[name].bits_per_weight(dims[-1] if _is_by_rows(value) else dims[0])
        total += tensor.size * bits / 8
    return int(total)


def _stored(value: ir.Value) -> StoredTensor:
    if not isinstance(value.const_value, ir.ExternalTensor):
        raise UnsupportedError(f"`{value.name}` is held in memory; streaming takes weights that lie in files")
    return StoredTensor.from_reference(value.const_value)


def _is_by_rows(value: ir.Value) -> bool:
    """Whether a weight is stored `[N, K]`, output channels first: tables, `transB`, and behind a Transpose."""
    reader = value.consumers()[0] if value.consumers() else None
    if reader is None or reader.op_type in ("Gather", "Transpose"):
        return True
    return bool(attribute(reader, "transB", 0))


def _declared(value: ir.Value, tensor: StoredTensor) -> str:
    """The type an initializer has in the graph, which the bytes it refers to may be converted to."""
    if value.dtype is None or _onnx_type(tensor.dtype) == value.dtype:
        return tensor.dtype
    wanted = {_onnx_type(name): name for name in ("float32", "float16")}.get(value.dtype)
    if wanted is None or tensor.dtype not in ("bfloat16", "float16", "float32", "float64"):
        raise UnsupportedError(
            f"`{value.name}` is {value.dtype.name} in the graph and {tensor.dtype} in `{tensor.path.name}`"
        )
    return wanted


def _onnx_type(name: str) -> ir.DataType:
    return ir.DataType[{"float32": "FLOAT", "float64": "DOUBLE"}.get(name, name.upper())]


def _read_through_cast(model: ir.Model, halves: Mapping[str, Array]) -> None:
    """Readers of these initializers read their float16 copies behind a Cast, which is folded at load."""
    editor = Editor(model)
    for name, data in halves.items():
        value = model.graph.initializers[name]
        half = editor.constant(data, f"{name}.fp16")
        cast = editor.op(
            "Cast",
            [half],
            f"{name}.fp32",
            before=value.consumers()[0],
            attributes={"to": int(ir.DataType.FLOAT)},
            shape=value.shape,
        )
        value.replace_all_uses_with(cast)
    if halves:
        editor.finish()
