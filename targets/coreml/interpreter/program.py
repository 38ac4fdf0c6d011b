"""A saved package as plain data: its interface, its operations and their constants."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from edgeq.errors import IntegrityError, UnsupportedError
from edgeq.files import contained_path
from edgeq.targets.coreml.interpreter import wire
from edgeq.targets.coreml.interpreter.blob import BlobFile
from edgeq.types import Array

Constant: TypeAlias = "Array | str"

DTYPES = {1: "bool", 2: "string", 10: "fp16", 11: "fp32", 21: "int8", 22: "int16", 23: "int32", 25: "int4"}
DTYPES |= {
    31: "uint8",
    32: "uint16",
    33: "uint32",
    35: "uint4",
    36: "uint2",
    37: "uint1",
    38: "uint6",
    39: "uint3",
}
"""MIL's element types that a package of ours may hold."""

_NUMPY = {"bool": np.bool_, "fp16": np.float32, "fp32": np.float32, "int8": np.int8, "int16": np.int16}
_NUMPY |= {"int32": np.int32, "uint8": np.uint8, "uint16": np.uint16, "uint32": np.uint32}
_NUMPY |= {"int4": np.int8, "uint1": np.uint8, "uint2": np.uint8, "uint3": np.uint8, "uint4": np.uint8}
_NUMPY |= {"uint6": np.uint8}
_IN_BYTES = {"fp16": "<f2", "int8": "i1", "uint8": "u1", "uint32": "<u4"}
"""Element types whose immediate values are stored as raw bytes."""


@dataclass(frozen=True, slots=True)
class TensorType:
    """Element type by MIL name and shape; an axis that is free until run time is None."""

    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One operation: operands are names of values, or constants given in place."""

    kind: str
    name: str
    operands: dict[str, list[str | Literal]]
    outputs: tuple[tuple[str, TensorType], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Literal:
    """A constant given in place of an operand."""

    value: Constant


@dataclass(frozen=True, slots=True)
class Feature:
    """A model input or output as the description declares it; several shapes are enumerated ones."""

    name: str
    dtype: str
    shapes: tuple[tuple[int, ...], ...]
    description: str


@dataclass(frozen=True, slots=True, eq=False)
class Package:
    """Everything a package says."""

    specification_version: int
    opset: str
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    operations: tuple[Operation, ...]
    result_names: tuple[str, ...]
    metadata: dict[str, str] = field(default_factory=dict)


_ARRAY_TYPES = {65568: "fp32", 65552: "fp16", 131104: "int32", 65600: "fp64"}


def read_package(path: Path) -> Package:
    """Read an `.mlpackage` with one ML program.

    Raises:
        IntegrityError: files are missing or are not what the manifest says.
        UnsupportedError: another kind of model, several functions, or control flow.
    """
    spec_path, weight_dir = _locate(path)
    spec = wire.parse(memoryview(spec_path.read_bytes()))
    program = wire.message(spec, 502)
    if program is None:
        raise UnsupportedError(f"`{path.name}` holds no ML program; only those are interpreted")
    functions = wire.entries(program, 2)
    if list(functions) != ["main"]:
        raise UnsupportedError(f"`{path.name}` has functions {sorted(functions)}; expected only `main`")
    function = functions["main"]
    opset = wire.text(function, 2)
    block = wire.entries(function, 3)[opset]
    reader = _Reader(weight_dir)
    description = wire.message(spec, 2) or {}
    return Package(
        specification_version=wire.number(spec, 1),
        opset=opset,
        inputs=tuple(_feature(item) for item in wire.messages(description, 1)),
        outputs=tuple(_feature(item) for item in wire.messages(description, 10)),
        operations=tuple(reader.operation(item) for item in wire.messages(block, 3)),
        result_names=tuple(bytes(wire.raw(value)).decode() for value in block.get(2, [])),
        metadata=_metadata(wire.message(description, 100) or {}),
    )


def _locate(path: Path) -> tuple[Path, Path]:
    """Specification file and weight folder, by the package's manifest."""
    try:
        manifest = json.loads((path / "Manifest.json").read_text(encoding="utf-8"))
        entry = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]
    except (OSError, ValueError, KeyError) as error:
        raise IntegrityError(
            f"`{path}` is no Core ML package: its manifest cannot be read ({error})"
        ) from error
    spec = contained_path(path / "Data", entry["path"])
    if not spec.is_file():
        raise IntegrityError(f"`{path}` lacks `{entry['path']}`, which its manifest lists")
    return spec, spec.parent / "weights"


def _feature(item: wire.Message) -> Feature:
    array = wire.message(wire.message(item, 3) or {}, 5)
    name = wire.text(item, 1)
    if array is None:
        raise UnsupportedError(f"`{name}` is not a multi-array; only those are interpreted")
    if 31 in array:
        raise UnsupportedError(f"`{name}` has a range of shapes; fixed or enumerated ones are interpreted")
    listed = wire.messages(wire.message(array, 21) or {}, 1)
    shapes = [tuple(wire.numbers(shape, 1)) for shape in listed] or [tuple(wire.numbers(array, 1))]
    dtype = _ARRAY_TYPES[wire.number(array, 2)]
    return Feature(name, dtype, tuple(shapes), wire.text(item, 2))


def _metadata(item: wire.Message) -> dict[str, str]:
    named = {"description": 1, "version": 2, "author": 3, "license": 4}
    result = {name: wire.text(item, number) for name, number in named.items()}
    return result | {wire.text(entry, 1): wire.text(entry, 2) for entry in wire.messages(item, 100)}


class _Reader:
    """Decodes operations; opens each weight file once."""

    def __init__(self, weight_dir: Path) -> None:
        self._weight_dir = weight_dir
        self._blobs: dict[str, BlobFile] = {}

    def operation(self, item: wire.Message) -> Operation:
        kind = wire.text(item, 1)
        if 4 in item:
            raise UnsupportedError(
                f"operator `{kind}` has inner blocks (control flow), which is not interpreted"
            )
        operands: dict[str, list[str | Literal]] = {
            name: [self._binding(binding) for binding in wire.messages(argument, 1)]
            for name, argument in wire.entries(item, 2).items()
        }
        attributes = {name: self._value(value) for name, value in wire.entries(item, 5).items()}
        name = str(attributes.pop("name", ""))
        operands |= {key: [Literal(value)] for key, value in attributes.items()}
        outputs = tuple(
            (wire.text(out, 1), _tensor_type(wire.message(out, 2) or {})) for out in wire.messages(item, 3)
        )
        return Operation(kind, name, operands, outputs)

    def _binding(self, item: wire.Message) -> str | Literal:
        value = wire.message(item, 2)
        return wire.text(item, 1) if value is None else Literal(self._value(value))

    def _value(self, item: wire.Message) -> Constant:
        kind = _tensor_type(wire.message(item, 2) or {})
        blob = wire.message(item, 5)
        if blob is not None:
            return self._from_blob(blob, kind)
        tensor = wire.message(wire.message(item, 3) or {}, 1)
        if tensor is None:
            raise UnsupportedError(
                f"a constant of type {kind.dtype} is no tensor; only tensors are interpreted"
            )
        return _immediate(tensor, kind)

    def _from_blob(self, item: wire.Message, kind: TensorType) -> Array:
        name = Path(wire.text(item, 1)).name
        if name not in self._blobs:
            self._blobs[name] = BlobFile(contained_path(self._weight_dir, name))
        shape = _fixed_shape(kind)
        values = self._blobs[name].read(wire.number(item, 2), int(np.prod(shape, dtype=np.int64)))
        return values.reshape(shape).astype(_NUMPY[kind.dtype], copy=False)


def _tensor_type(item: wire.Message) -> TensorType:
    tensor = wire.message(item, 1)
    if tensor is None:
        raise UnsupportedError(
            "a value is no tensor (list, tuple, dictionary or state); only tensors are interpreted"
        )
    code = wire.number(tensor, 1)
    if code not in DTYPES:
        raise UnsupportedError(f"element type {code} of MIL is not interpreted")
    return TensorType(DTYPES[code], tuple(_dim(dim) for dim in wire.messages(tensor, 3)))


def _dim(item: wire.Message) -> int | None:
    constant = wire.message(item, 1)
    return None if constant is None else wire.number(constant, 1)


def _fixed_shape(kind: TensorType) -> tuple[int, ...]:
    if None in kind.shape:
        raise IntegrityError(f"a constant has the shape {kind.shape}; expected a fixed one")
    return tuple(dim for dim in kind.shape if dim is not None)


def _immediate(tensor: wire.Message, kind: TensorType) -> Constant:
    shape = _fixed_shape(kind)
    if kind.dtype == "string":
        values = [
            bytes(wire.raw(value)).decode("utf-8") for value in (wire.message(tensor, 4) or {}).get(1, [])
        ]
        if len(values) != 1:
            raise UnsupportedError("a constant holds several strings; one was expected")
        return values[0]
    if kind.dtype in _IN_BYTES:
        data = (wire.message(tensor, 7) or {}).get(1, [])
        flat = np.frombuffer(b"".join(bytes(wire.raw(chunk)) for chunk in data), _IN_BYTES[kind.dtype])
    elif kind.dtype == "fp32":
        flat = wire.fixed(wire.message(tensor, 1) or {}, 1, "<f4")
    elif kind.dtype in ("int32", "int16", "uint16"):
        flat = np.array(wire.numbers(wire.message(tensor, 2) or {}, 1), np.int64)
    elif kind.dtype == "bool":
        flat = np.array(wire.numbers(wire.message(tensor, 3) or {}, 1), np.int64)
    else:
        raise UnsupportedError(f"an immediate value of type {kind.dtype} is not interpreted")
    if flat.size != int(np.prod(shape, dtype=np.int64)):
        raise IntegrityError(f"a constant of shape {shape} has {flat.size} values")
    return flat.reshape(shape).astype(_NUMPY[kind.dtype])
