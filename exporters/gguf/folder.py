"""A GGUF file unpacked into an ordinary model folder, for everything that works on one, and its codes kept beside it.

The folder holds the dequantized weights, a tensor at a time: the original that the bundle is compared with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.errors import ModelError, UnsupportedError
from edgeq.exporters.causal_lm.parameters import Parameter, parameters_of
from edgeq.exporters.dense_file import DenseFile
from edgeq.exporters.gguf.facts import config_of, family_of, is_float, label_of
from edgeq.exporters.gguf.families import GgufFamily
from edgeq.exporters.gguf.reader import GgufFile, GgufTensor, open_gguf
from edgeq.exporters.gguf.tokenizer import save_tokenizer
from edgeq.quantize.checkpoint_codes import PackedTensor, PackedWeights
from edgeq.quantize.weight_only import QuantizedWeight
from edgeq.quantize.weight_only.gguf_import import FORMATS, import_blocks
from edgeq.types import Array, FloatArray


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
    family = family_of(file)
    (folder / "config.json").write_text(json.dumps(config_of(file), indent=1), encoding="utf-8")
    save_tokenizer(file, folder)
    plan = _plan(file, family)
    _check_parameters(file, plan, parameters_of(folder, path))
    packed = PackedWeights(f"gguf-{label_of(file)}")
    with DenseFile(folder / "model.safetensors", plan) as writer:
        for tensor in file.tensors.values():
            if tensor.name in family.ignored:
                continue
            parameter, generic = family.parameter(tensor.name)
            dense = _changed(_values(tensor, path), file, family, generic)
            writer.write(parameter, dense.T if generic in family.transposed else dense)
            if tensor.kind in FORMATS and len(tensor.shape) == 2:
                packed.add(
                    PackedTensor(parameter, tensor.kind, _loader(file, family, tensor, generic)), dense
                )
    return UnpackedGguf(folder, None if is_float(file) else packed)


def _plan(file: GgufFile, family: GgufFamily) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape by parameter, in the order of the file."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for tensor in file.tensors.values():
        if tensor.name in family.ignored:
            continue
        name, generic = family.parameter(tensor.name)
        if name in found:
            raise ModelError(f"`{file.path}` has two tensors for `{name}`")
        shape = tensor.shape[::-1] if generic in family.transposed else tensor.shape
        changed = generic in family.changes and len(tensor.shape) == 1
        found[name] = ("F16" if tensor.kind == "F16" and not changed else "F32", shape)
    return found


def _check_parameters(
    file: GgufFile, plan: Mapping[str, tuple[str, tuple[int, ...]]], wanted: Mapping[str, Parameter]
) -> None:
    """Whether the tensors are those of the model that the metadata describe: none missing, left over or misshapen.

    Raises:
        ModelError: they are not.
    """
    missing = [name for name, parameter in wanted.items() if name not in plan and not parameter.is_tied]
    if missing:
        raise ModelError(
            f"`{file.path}` has no weights for {len(missing)} parameters of its model, first `{missing[0]}`"
        )
    for name, (_, shape) in plan.items():
        if name not in wanted:
            raise ModelError(f"`{file.path}` has weights `{name}`, and its metadata a model without them")
        if shape != wanted[name].shape:
            raise ModelError(
                f"`{file.path}` has `{name}` of shape {list(shape)}, expected {list(wanted[name].shape)} by its "
                "metadata"
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


def _changed(rows: Array, file: GgufFile, family: GgufFamily, generic: str) -> FloatArray:
    change = family.changes.get(generic)
    return np.asarray(rows if change is None else change(rows, file), np.float32)


def _loader(file: GgufFile, family: GgufFamily, tensor: GgufTensor, generic: str) -> Any:
    def load() -> QuantizedWeight:
        change = family.changes.get(generic)
        data = tensor.data if change is None else change(tensor.data, file)
        try:
            return import_blocks(tensor.kind, np.asarray(data), tensor.shape[1])
        except UnsupportedError as error:
            raise UnsupportedError(f"tensor `{tensor.name}`: {error.message}", hint=error.hint) from error

    return load
