"""Quantized weights in a file, packed as MatMulNBits stores them: a model's codes need not be in memory together."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgeq.graph.block_weight import BlockWeight
from edgeq.graph.passes.in_place import in_place
from edgeq.graph.passes.weight_only import lower_weight_only
from edgeq.graph.streamed_tensor import StreamedTensor
from edgeq.numerics import unpack_int4
from edgeq.quantize.formats import Blocks
from edgeq.quantize.streaming.external_data import ExternalDataWriter, Region
from edgeq.quantize.streaming.stacked_rows import StackedRows
from edgeq.quantize.streaming.stored_tensor import StoredTensor
from edgeq.quantize.weight_only.matmul_nbits import lower, to_block_weight
from edgeq.quantize.weight_only.quantized_weight import QuantizedWeight
from edgeq.scratch import ScratchFolder
from edgeq.types import Array

if TYPE_CHECKING:
    import onnx_ir as ir


class Codes(Protocol):
    """Where the codes of a weight are: in memory, or in a file."""

    @property
    def shape(self) -> tuple[int, int]:
        """`(in_features, out_features)`."""

    def __call__(self, outputs: Sequence[int] | None = None) -> QuantizedWeight:
        """The codes of all or some output channels."""

    def block(self) -> BlockWeight:
        """The packed weight; of a file only mapped, and not read."""


@dataclass(frozen=True, slots=True, eq=False)
class HeldCodes:
    """Codes in memory."""

    weight: QuantizedWeight

    @property
    def shape(self) -> tuple[int, int]:
        """`(in_features, out_features)`."""
        return self.weight.in_features, self.weight.out_features

    def __call__(self, outputs: Sequence[int] | None = None) -> QuantizedWeight:
        """The codes of all or some output channels."""
        return self.weight if outputs is None else self.weight.select(outputs)

    def block(self) -> BlockWeight:
        """The packed weight."""
        return to_block_weight(self.weight)


class WeightStore:
    """A temporary file of quantized weights that goes with the last one who refers to it."""

    def __init__(self) -> None:
        scratch = ScratchFolder("weights")
        self._writer = ExternalDataWriter(scratch.path / "quantized")
        self._writer.__enter__()
        self._bytes: Array | None = None
        weakref.finalize(self, _remove, self._writer, scratch)

    @property
    def path(self) -> Path:
        """The file."""
        return self._writer.temporary

    def add(self, weight: QuantizedWeight) -> StoredCodes:
        """Pack a weight and write it.

        Raises:
            OutputError: the disk is full.
        """
        return self.add_rows([to_block_weight(weight)], weight.out_features, weight.method, weight.notes)

    def add_rows(
        self, pieces: Iterable[BlockWeight], rows: int, method: str, notes: tuple[str, ...] = ()
    ) -> StoredCodes:
        """Write a weight that comes some output channels at a time.

        Args:
            pieces: consecutive rows of one format.
            rows: of all pieces together.
            method: what made it.
            notes: about a fallback.
        """
        regions: dict[str, Region] = {}
        sample: BlockWeight | None = None
        for piece in pieces:
            for name, part in _parts(piece).items():
                if sample is None:
                    regions[name] = self._writer.reserve(part.nbytes // part.shape[0] * rows)
                regions[name].write(part)
            sample = sample or _first_row(piece)
        assert sample is not None
        stored = {name: self._stored(regions[name], part, rows) for name, part in _parts(sample).items()}
        return StoredCodes(self, sample, rows, stored, method, notes)

    def _stored(self, region: Region, part: Array, rows: int) -> StoredTensor:
        shape = (rows, *part.shape[1:])
        return StoredTensor("quantized weight", self.path, region.offset, part.dtype.name, shape)

    def mapped(self) -> Array:
        """The file as bytes; hardly any page of it is read."""
        if self._bytes is None or self._bytes.size != self._writer.size:
            self._bytes = np.memmap(self.path, np.uint8, "r", shape=(self._writer.size,))
        return self._bytes

    def offset_of(self, array: Array) -> int | None:
        """Where in the file an array's memory is; None for one that lies elsewhere."""
        if self._bytes is None or array.size == 0:
            return None
        offset = int(array.ctypes.data - self._bytes.ctypes.data)
        return offset if offset >= 0 and offset + array.nbytes <= self._bytes.size else None


def _remove(writer: ExternalDataWriter, scratch: ScratchFolder) -> None:
    writer.__exit__()
    scratch.remove()


def _first_row(block: BlockWeight) -> BlockWeight:
    """Enough to know the format; a copy, so that nothing holds the rest."""
    return _with_parts(block, {name: part[:1].copy() for name, part in _parts(block).items()})


def _with_parts(block: BlockWeight, parts: Mapping[str, Array]) -> BlockWeight:
    return replace(
        block,
        data=parts["data"],
        scales=parts["scales"],
        zero_points=parts.get("zero_points"),
        offsets=parts.get("offsets"),
    )


def _parts(block: BlockWeight) -> dict[str, Array]:
    """What is stored row by row."""
    found = {
        "data": block.data,
        "scales": block.scales,
        "zero_points": block.zero_points,
        "offsets": block.offsets,
    }
    return {name: part for name, part in found.items() if part is not None}


@dataclass(frozen=True, slots=True, eq=False)
class StoredCodes:
    """Codes in a store.

    Attributes:
        store: the file.
        sample: some of its rows, for what all have in common.
        rows: output channels.
        stored: where each part is.
        method: what made them.
        notes: about a fallback.
    """

    store: WeightStore
    sample: BlockWeight
    rows: int
    stored: Mapping[str, StoredTensor]
    method: str
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """`(in_features, out_features)`."""
        return self.sample.in_features, self.rows

    def __call__(self, outputs: Sequence[int] | None = None) -> QuantizedWeight:
        """The codes of all or some output channels, read from the file."""
        indices = range(self.rows) if outputs is None else outputs
        parts = {name: _read(tensor, indices) for name, tensor in self.stored.items()}
        return _unpacked(_with_parts(self.sample, parts), self.method, self.notes)

    def block(self) -> BlockWeight:
        """The packed weight, mapped."""
        data = self.store.mapped()
        parts = {
            name: data[tensor.offset : tensor.offset + tensor.nbytes].view(tensor.dtype).reshape(tensor.shape)
            for name, tensor in self.stored.items()
        }
        return _with_parts(self.sample, parts)


def _read(tensor: StoredTensor, indices: Sequence[int]) -> Array:
    """Rows as they are stored; neighbours in one go."""
    if isinstance(indices, range) and indices.step == 1:
        part = tensor.part(indices.start, indices.stop)
        return np.concatenate(list(part.pieces())).reshape(part.shape)
    return tensor.entries(indices)


def _unpacked(block: BlockWeight, method: str, notes: tuple[str, ...]) -> QuantizedWeight:
    """Codes as methods have them."""
    zeros = block.zero_points
    if block.bits == 4 and zeros is not None:
        zeros = unpack_int4(zeros, block.scales.shape[1])
    return QuantizedWeight(
        q=unpack_int4(block.data, block.block_size) if block.bits == 4 else block.data,
        scales=block.scales.astype(np.float32),
        zero_points=zeros,
        spec=Blocks(
            block.bits,
            block.block_size,
            zeros is None,
            "float16" if block.scales.dtype == np.float16 else "float32",
        ),
        in_features=block.in_features,
        method=method,
        notes=notes,
        input_scales=block.input_scales,
        offsets=block.offsets,
        input_order=block.input_order,
    )


class QuantizedWeights(Mapping[str, QuantizedWeight]):
    """Quantized weights by initializer, read when they are asked for.

    Args:
        codes: by initializer.
    """

    def __init__(self, codes: Mapping[str, Codes]) -> None:
        self.codes = dict(codes)

    def __getitem__(self, name: str) -> QuantizedWeight:
        """One weight; of a store, read anew each time."""
        return self.codes[name]()

    def __iter__(self) -> Iterator[str]:
        """Initializers."""
        return iter(self.codes)

    def __len__(self) -> int:
        """Number of weights."""
        return len(self.codes)


@in_place
def lower_weights(model: ir.Model, weights: Mapping[str, QuantizedWeight]) -> bool:
    """`matmul_nbits.lower`; weights in a store become references to it."""
    if not isinstance(weights, QuantizedWeights):
        return lower(weights)(model).modified
    result = lower_weight_only({name: codes.block() for name, codes in weights.codes.items()})(model)
    for store in {codes.store for codes in weights.codes.values() if isinstance(codes, StoredCodes)}:
        _refer_to(model, store)
    return result.modified


def _refer_to(model: ir.Model, store: WeightStore) -> None:
    """Initializers that are views of a store's file become streamed tensors of it."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or isinstance(tensor, StreamedTensor):
            continue
        array = tensor.numpy()
        offset = store.offset_of(array)
        if offset is not None:
            name = str(value.name)
            stored = StoredTensor(name, store.path, offset, array.dtype.name, array.shape)
            value.const_value = StackedRows([stored], name, is_half=array.dtype == np.float16)
