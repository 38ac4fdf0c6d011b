"""Checkpoints in safetensors, one file or shards with an index: headers are read and checked, tensors are not.

Format: github.com/huggingface/safetensors. Eight bytes of header length, a JSON header, then the tensors,
which fill the rest of the file without holes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import Any

from edgeq.errors import ModelError
from edgeq.quantize.streaming.stored_tensor import STORAGE, StoredTensor

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""

_DTYPES = {
    "BF16": "bfloat16",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The tensors of a safetensors checkpoint.

    Attributes:
        path: the file, or the index of a sharded one.
        tensors: by name.
    """

    path: Path
    tensors: Mapping[str, StoredTensor]

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Read and check the headers.

        Args:
            path: a model folder, a `.safetensors` file, or a `.safetensors.index.json`.

        Raises:
            ModelError: files are missing, truncated or malformed, or a tensor is there twice.
        """
        found = _entry_file(path)
        if found.suffix == ".safetensors":
            return cls(found, {tensor.name: tensor for tensor in read_header(found)})
        return cls(found, _read_shards(found))

    def names(self) -> Sequence[str]:
        """Every tensor, in the order of the files."""
        return tuple(self.tensors)

    def __getitem__(self, name: str) -> StoredTensor:
        """One tensor; nothing is read yet.

        Raises:
            ModelError: there is none of that name.
        """
        if name not in self.tensors:
            close = get_close_matches(name, self.tensors, n=1)
            raise ModelError(
                f"`{self.path.name}` has no tensor `{name}`",
                hint=f"did you mean `{close[0]}`?" if close else None,
            )
        return self.tensors[name]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def read_header(path: Path) -> tuple[StoredTensor, ...]:
    """The tensors of one safetensors file, in file order.

    Raises:
        ModelError: the file is missing, truncated, or not safetensors.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                raise _damaged(path, f"a header of {length} bytes in a file of {size}")
            entries = _json_object(file.read(length), path)
    except OSError as error:
        raise ModelError(f"`{path}` cannot be read: {error.strerror}") from error
    entries.pop("__metadata__", None)
    start = 8 + length
    tensors = sorted((_tensor(name, entry, path, start) for name, entry in entries.items()), key=_by_offset)
    _check_layout(
        path, tensors, {name: entry["data_offsets"] for name, entry in entries.items()}, size - start
    )
    return tuple(tensors)


def _by_offset(tensor: StoredTensor) -> tuple[int, int]:
    return tensor.offset, tensor.size


def _tensor(name: str, entry: Any, path: Path, start: int) -> StoredTensor:
    try:
        begin, end = entry["data_offsets"]
        shape = tuple(entry["shape"])
        dtype = entry["dtype"]
    except (TypeError, KeyError, ValueError) as error:
        raise _damaged(path, f"a malformed entry `{name}`") from error
    numbers = (*shape, begin, end)
    if not all(type(number) is int and number >= 0 for number in numbers) or not isinstance(dtype, str):
        raise _damaged(path, f"a malformed entry `{name}`")
    return StoredTensor(name, path, start + begin, _DTYPES.get(dtype, dtype), shape)


def _check_layout(
    path: Path, tensors: Sequence[StoredTensor], offsets: Mapping[str, Sequence[int]], data_bytes: int
) -> None:
    """Tensors follow each other without holes or overlaps, and end where the file ends."""
    position = 0
    for tensor in tensors:
        begin, end = offsets[tensor.name]
        if begin != position or end < begin:
            raise _damaged(
                path, f"`{tensor.name}` at bytes {begin} to {end}, expected to begin at {position}"
            )
        if tensor.dtype in STORAGE and end - begin != tensor.nbytes:
            raise _damaged(
                path,
                f"`{tensor.name}` with {end - begin} bytes, expected {tensor.nbytes} for its shape and type",
            )
        position = end
    if position != data_bytes:
        what = "truncated" if position > data_bytes else "followed by other data"
        raise _damaged(path, f"{data_bytes} bytes of tensors, expected {position}: it is {what}")


def _entry_file(path: Path) -> Path:
    if not path.is_dir():
        if path.suffix in (".safetensors", ".json"):
            return path
        raise ModelError(f"`{path}` is no safetensors checkpoint; expected a folder, {SINGLE} or {INDEX}")
    for name in (SINGLE, INDEX):
        if (path / name).is_file():
            return path / name
    shards = sorted(path.glob("*.safetensors"))
    if shards:
        raise ModelError(f"`{path}` has {len(shards)} safetensors files but no {INDEX}")
    raise ModelError(
        f"no {SINGLE} or {INDEX} in `{path}`",
        hint="convert pickled weights with transformers' save_pretrained",
    )


def _read_shards(index: Path) -> dict[str, StoredTensor]:
    try:
        document = _json_object(index.read_bytes(), index)
    except OSError as error:
        raise ModelError(f"`{index}` cannot be read: {error.strerror}") from error
    weight_map = document.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"`{index}` has no `weight_map`")
    shards = {name: dict(_tensors_of(index.parent, name)) for name in _shard_names(index, weight_map)}
    for shard, tensors in shards.items():
        elsewhere = next((name for name in tensors if weight_map.get(name, shard) != shard), None)
        if elsewhere is not None:
            raise ModelError(
                f"`{elsewhere}` is in `{shard}`, but {index.name} says it is in `{weight_map[elsewhere]}`"
            )
    absent = next((name for name, shard in weight_map.items() if name not in shards[shard]), None)
    if absent is not None:
        raise ModelError(
            f"{index.name} says that `{absent}` is in `{weight_map[absent]}`, which has no such tensor"
        )
    return {name: tensors[name] for tensors in shards.values() for name in tensors if name in weight_map}


def _shard_names(index: Path, weight_map: Mapping[str, Any]) -> list[str]:
    """Files of the index, all of them there."""
    names = sorted({str(name) for name in weight_map.values()})
    unsafe = next((name for name in names if PurePath(name).name != name or "\\" in name), None)
    if unsafe is not None:
        raise ModelError(f"{index.name} names `{unsafe}`, which is not a plain file beside it")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise ModelError(
            f"{index.name} lists {len(names)} files, of which {len(missing)} are missing: {', '.join(missing[:3])}",
            hint="download the whole checkpoint",
        )
    return names


def _tensors_of(folder: Path, name: str) -> Iterator[tuple[str, StoredTensor]]:
    return ((tensor.name, tensor) for tensor in read_header(folder / name))


def _json_object(text: bytes, path: Path) -> dict[str, Any]:
    """A JSON object whose names are there once each, at every depth."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise _damaged(path, f"`{twice}` twice")
        return found

    try:
        document = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "a header that is not JSON") from error
    if not isinstance(document, dict):
        raise _damaged(path, f"a header that is {type(document).__name__}, not an object")
    return document


def _damaged(path: Path, what: str) -> ModelError:
    return ModelError(f"`{path.name}` has {what}", hint="download the weights again")
