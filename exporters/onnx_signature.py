"""Inputs and outputs of ONNX files as other tools write them: other names, other types, fixed sizes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.errors import ModelError
from edgeq.graph.passes.in_place import in_place
from edgeq.onnx_runtime import session_options
from edgeq.types import Array, Feeds, Outputs, Role

if TYPE_CHECKING:
    import onnx_ir as ir

ROLES = {
    "input_ids": Role.TOKEN_IDS,
    "attention_mask": Role.ATTENTION_MASK,
    "token_type_ids": Role.TOKEN_TYPE_IDS,
}
OTHER_NAMES = {"input_mask": "attention_mask", "segment_ids": "token_type_ids"}
"""Of the original BERT, which files converted from TensorFlow keep."""

DECORATION = re.compile(r"^serving_default_|:0$")
"""What TensorFlow puts around the name of a tensor."""

ID_TYPES = ("INT64", "INT32")
MASK_TYPES = (*ID_TYPES, "FLOAT", "FLOAT16", "BOOL")
NUMPY_TYPES: Mapping[str, Any] = {
    "INT64": np.int64,
    "INT32": np.int32,
    "FLOAT": np.float32,
    "FLOAT16": np.float16,
    "BOOL": np.bool_,
}


def plain_name(name: str) -> str:
    """`serving_default_input_mask:0` to `attention_mask`."""
    bare = DECORATION.sub("", DECORATION.sub("", name))
    return OTHER_NAMES.get(bare, bare)


@dataclass(frozen=True, slots=True)
class FileInput:
    """One input of a file: its own name and type, the role it plays, and sizes that are fixed."""

    name: str
    role_name: str
    dtype: str
    batch: int | None
    sequence: int | None


@dataclass(frozen=True, slots=True)
class FileSignature:
    """How a file wants to be fed.

    Attributes:
        inputs: in the file's order.
        batch: rows that every run must have; None where they are free.
        sequence: tokens that every row must have; None where they are free.
    """

    inputs: tuple[FileInput, ...]
    batch: int | None
    sequence: int | None


def read_signature(model: ir.Model, path: Path) -> FileSignature:
    """The signature of a text encoder's file.

    Raises:
        ModelError: its inputs are not those of one, or their shapes or types cannot be fed.
    """
    names = [str(value.name) for value in model.graph.inputs]
    plain = [plain_name(name) for name in names]
    unknown = [name for name in plain if name not in ROLES]
    if unknown or not {"input_ids", "attention_mask"} <= set(plain) or len(set(plain)) < len(plain):
        raise ModelError(
            f"`{path}` has the inputs {', '.join(names)}, expected input_ids, attention_mask and perhaps "
            "token_type_ids",
            hint="export the original model instead: edgeq takes its folder or Hub id",
        )
    inputs = tuple(_read_input(value, path) for value in model.graph.inputs)
    sizes = [
        {size for one in inputs if (size := getattr(one, axis)) is not None} for axis in ("batch", "sequence")
    ]
    for axis, found in zip(("rows", "tokens"), sizes, strict=True):
        if len(found) > 1 or 0 in found:
            raise ModelError(f"the inputs of `{path}` want {sorted(found)} {axis} at once")
    batch, sequence = (next(iter(found), None) for found in sizes)
    return FileSignature(inputs, batch, sequence)


def _read_input(value: ir.Value, path: Path) -> FileInput:
    shape, dtype = list(value.shape or ()), value.dtype.name if value.dtype is not None else "of no type"
    if len(shape) != 2:
        raise ModelError(
            f"input {value.name} of `{path}` has shape {shape}, expected two dimensions, batch and sequence"
        )
    role = plain_name(str(value.name))
    allowed = MASK_TYPES if role == "attention_mask" else ID_TYPES
    if dtype not in allowed:
        raise ModelError(f"input {value.name} of `{path}` is {dtype}, expected {' or '.join(allowed)}")
    sizes = [dim if isinstance(dim, int) else None for dim in shape]
    return FileInput(str(value.name), role, dtype, *sizes)


@in_place
def take_our_inputs(model: ir.Model, signature: FileSignature) -> bool:
    """Give the inputs of a graph our names and INT64; what they were is made by casts behind them."""
    import onnx_ir as ir

    first = model.graph.node(0)
    for value, one in zip(list(model.graph.inputs), signature.inputs, strict=True):
        _free_name(model, one.role_name, value)
        value.name = one.role_name
        if one.dtype == "INT64":
            continue
        uses = list(value.uses())
        value.dtype = ir.DataType.INT64
        cast = ir.node("Cast", [value], {"to": int(ir.DataType[one.dtype])})
        cast.outputs[0].name = f"{value.name}_as_{one.dtype.lower()}"
        cast.outputs[0].dtype, cast.outputs[0].shape = ir.DataType[one.dtype], value.shape
        model.graph.insert_before(first, cast)
        for user, index in uses:
            _read_through(user, index, value, cast.outputs[0])
    return True


def _free_name(model: ir.Model, name: str, kept: ir.Value) -> None:
    for node in model.graph:
        for output in node.outputs:
            if output.name == name and output is not kept:
                output.name = f"{name}_inner"


def _read_through(user: ir.Node, index: int, value: ir.Value, cast: ir.Value) -> None:
    """An operator reads the cast, or our integers where it takes them as well: lookups and casts do."""
    takes_int64 = (user.op_type == "Gather" and index == 1) or user.op_type in ("Cast", "Shape")
    user.replace_input_with(index, value if takes_int64 else cast)


def run_file(
    path: Path, signature: FileSignature, picked: Mapping[str, str], is_per_token: bool
) -> Callable[[Feeds], Outputs]:
    """A function that runs a file in ONNX Runtime, as it is: our feeds in its types and sizes, its outputs in float32.

    Rows are padded to the length the file was fixed to, and repeated to fill its batch; what comes out of the
    padding is cut off.

    Args:
        path: the file.
        signature: how it wants to be fed.
        picked: our output names, and the file's.
        is_per_token: outputs are `[batch, sequence, ...]`.

    Raises:
        ModelError: ONNX Runtime cannot load the file; from the function, that it cannot run the feeds.
    """
    import onnxruntime as ort

    try:
        session = ort.InferenceSession(path, session_options(), providers=["CPUExecutionProvider"])
    except (
        Exception
    ) as error:  # onnxruntime raises a family of its own for broken files and unknown operators
        raise ModelError(
            f"ONNX Runtime cannot run `{path}`: {error}",
            hint="the file is what its bundle is compared with: export it in float32 or float16, with operators that "
            "ONNX Runtime has on CPUs",
        ) from error

    def once(feeds: Feeds) -> list[Array]:
        own = {one.name: feeds[one.role_name].astype(NUMPY_TYPES[one.dtype]) for one in signature.inputs}
        try:
            return [np.asarray(array, np.float32) for array in session.run(list(picked.values()), own)]
        except Exception as error:  # the same family
            shapes = {name: list(array.shape) for name, array in own.items()}
            raise ModelError(
                f"`{path}` cannot run inputs of shapes {shapes}: {error}",
                hint="the tokenizer beside it may be that of another model, or --seq-len is more than it has "
                "positions for",
            ) from error

    def run(feeds: Feeds) -> Outputs:
        rows, tokens = feeds["input_ids"].shape
        padded = {name: _padded(array, signature, rows, tokens) for name, array in feeds.items()}
        step = signature.batch or max(rows, 1)
        parts = [
            once({name: array[at : at + step] for name, array in padded.items()})
            for at in range(0, max(rows, 1), step)
        ]
        whole = [np.concatenate(arrays)[:rows] for arrays in zip(*parts, strict=True)]
        cut = [array[:, :tokens] for array in whole] if is_per_token else whole
        return dict(zip(picked, cut, strict=True))

    return run


def _padded(array: Array, signature: FileSignature, rows: int, tokens: int) -> Array:
    if signature.sequence is not None:
        if tokens > signature.sequence:
            raise ModelError(f"the file takes {signature.sequence} tokens, and got {tokens}")
        array = np.pad(array, ((0, 0), (0, signature.sequence - tokens)))
    if signature.batch is not None and rows % signature.batch:
        missing = signature.batch - rows % signature.batch
        array = np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])
    return array
