"""A GGUF file unpacked into an ordinary model folder, for everything that works on one, and its codes kept beside it.

The folder holds the dequantized weights, a tensor at a time: the original that the bundle is compared with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from edgeq.errors import ModelError, UnsupportedError
from edgeq.exporters.decoder_parameters import Parameter, parameters_of
from edgeq.exporters.dense_file import DenseFile
from edgeq.exporters.gguf.facts import config_of, family_of, is_float, label_of
from edgeq.exporters.gguf.reader import open_gguf
from edgeq.exporters.gguf.tokenizer import save_tokenizer
from edgeq.families.changes import Change
from edgeq.families.gguf_file import GgufFile, GgufTensor
from edgeq.families.rope import FACTORS
from edgeq.families.tensor_names import tensor_names
from edgeq.quantize.checkpoint_codes import PackedTensor, PackedWeights
from edgeq.quantize.weight_only import QuantizedWeight
from edgeq.quantize.weight_only.gguf_import import FORMATS, import_blocks
from edgeq.types import Array


@dataclass(frozen=True, slots=True, eq=False)
class UnpackedGguf:
    """What a file came to.

    Attributes:
        folder: `config.json`, tokenizer, `model.safetensors` with dequantized weights.
        packed: its quantized tensors; None for a file of floats.
    """

    folder: Path
    packed: PackedWeights | None


def unpack(path: Path, folder: Path) -> UnpackedGguf:
    """Write the model folder.

    Args:
        path: the `.gguf` file.
        folder: exists and is empty.

    Raises:
        ModelError: the file is damaged, or lacks tensors or a tokenizer.
        UnsupportedError: an architecture, tensor or type that edgeq does not take.
        OutputError: no room for the dequantized weights.
    """
    file = open_gguf(path)
    config = config_of(file)
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    save_tokenizer(file, folder)
    placed = _placed(file, config, parameters_of(folder, path))
    packed = PackedWeights(f"gguf-{label_of(file)}")
    with DenseFile(folder / "model.safetensors", _plan(placed)) as writer:
        for one in placed:
            stored = _values(one.tensor, path)
            values = one.undone(stored, config)
            writer.write(one.parameter, values)
            if one.tensor.kind in FORMATS and len(one.tensor.shape) == 2:
                rows = stored if one.is_transposed else values
                packed.add(PackedTensor(one.parameter, one.tensor.kind, _loader(one, config)), rows)
    return UnpackedGguf(folder, None if is_float(file) else packed)


@dataclass(frozen=True, slots=True, eq=False)
class _Placed:
    """A tensor of the file and the parameter that it is.

    Attributes:
        tensor: as the file has it.
        parameter: its name in transformers.
        change: what llama.cpp did to the parameter; None for nothing.
    """

    tensor: GgufTensor
    parameter: str
    change: Change | None

    @property
    def is_transposed(self) -> bool:
        """The parameter is `[in, out]`; codes stay as they are, rows of outputs."""
        return self.change is not None and self.change.is_transposed

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the parameter."""
        return self.tensor.shape if self.change is None else self.change.shape(self.tensor.shape)

    def undone(self, rows: Array, config: Mapping[str, Any]) -> Array:
        """Rows of the file (bytes or floats) as the parameter has them."""
        return rows if self.change is None else self.change.undo(rows, config)


def _placed(file: GgufFile, config: Mapping[str, Any], parameters: Mapping[str, Parameter]) -> list[_Placed]:
    """Every tensor with its parameter, in the order of the file.

    Raises:
        UnsupportedError: a tensor that the architecture does not have.
        ModelError: the tensors are not those of the model that the metadata describe.
    """
    form = family_of(file).gguf
    own = [name for name, parameter in parameters.items() if not parameter.is_tied]
    named = tensor_names(form.name, file.count("block_count"), own)
    by_tensor = {tensor: parameter for parameter, tensor in named.items()}
    found = []
    for tensor in file.tensors.values():
        if tensor.name == FACTORS:
            continue
        parameter = by_tensor.get(tensor.name) or _refuse(file, tensor.name, by_tensor)
        found.append(_Placed(tensor, parameter, form.change_of(parameter)))
    _check_parameters(file, found, parameters)
    return found


def _refuse(file: GgufFile, tensor: str, by_tensor: Mapping[str, str]) -> NoReturn:
    """Say why a tensor has no parameter: a layer that the metadata do not count, or nothing the family knows."""
    layer = re.fullmatch(r"blk\.(\d+)(\..+)", tensor)
    first = by_tensor.get(f"blk.0{layer[2]}") if layer else None
    if layer and first:
        name = first.replace(".0.", f".{layer[1]}.", 1)
        raise ModelError(f"`{file.path}` has weights `{name}`, and its metadata a model without them")
    raise UnsupportedError(f"tensor `{tensor}` has no place in a {family_of(file).model_type} model")


def _plan(placed: Sequence[_Placed]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape by parameter, in the order of the file."""
    return {one.parameter: (_float_kind(one), one.shape) for one in placed}


def _float_kind(one: _Placed) -> str:
    is_changed = one.change is not None and len(one.tensor.shape) == 1
    return "F16" if one.tensor.kind == "F16" and not is_changed else "F32"


def _check_parameters(file: GgufFile, placed: Sequence[_Placed], wanted: Mapping[str, Parameter]) -> None:
    """Whether the tensors are those of the model that the metadata describe: none missing or misshapen.

    Raises:
        ModelError: they are not.
    """
    given = {one.parameter for one in placed}
    missing = [name for name, parameter in wanted.items() if name not in given and not parameter.is_tied]
    if missing:
        raise ModelError(
            f"`{file.path}` has no weights for {len(missing)} parameters of its model, first `{missing[0]}`"
        )
    for one in placed:
        if one.shape != wanted[one.parameter].shape:
            raise ModelError(
                f"`{file.path}` has `{one.parameter}` of shape {list(one.shape)}, expected "
                f"{list(wanted[one.parameter].shape)} by its metadata"
            )


def _values(tensor: GgufTensor, path: Path) -> Array:
    """Dequantized.

    Raises:
        ModelError: some of them are NaN or infinite.
    """
    found = tensor.dense()
    if not np.isfinite(found).all():
        raise ModelError(
            f"`{path}`: tensor `{tensor.name}` holds NaN or infinite values",
            hint="the file is damaged; download it again",
        )
    return found


def _loader(one: _Placed, config: Mapping[str, Any]) -> Any:
    def load() -> QuantizedWeight:
        tensor = one.tensor
        data = tensor.data if one.is_transposed else one.undone(tensor.data, config)
        try:
            return import_blocks(tensor.kind, np.asarray(data), tensor.shape[1])
        except UnsupportedError as error:
            raise UnsupportedError(f"tensor `{tensor.name}`: {error.message}", hint=error.hint) from error

    return load
