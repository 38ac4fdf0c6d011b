"""The packed layers of a checkpoint: which tensors make one, and how many bits and groups it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgeq.errors import EdgeqError, ModelError
from edgeq.exporters.gptq_awq.settings import GPTQ_VERSIONS, PackedSettings
from edgeq.quantize.streaming import StoredTensor
from edgeq.quantize.weight_only import QuantizedWeight
from edgeq.quantize.weight_only.awq_import import AwqLayer, import_awq
from edgeq.quantize.weight_only.gptq_import import GptqLayer, import_gptq
from edgeq.quantize.weight_only.packed_words import WORD_BITS
from edgeq.types import Array

PARTS = ("qweight", "qzeros", "scales")
"""Tensors that every packed layer has."""
ORDER = "g_idx"
"""The group of each input, where they are scattered; GPTQ only."""


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """One packed layer of a file; nothing is read yet.

    Attributes:
        module: its path.
        tensors: by part: `qweight`, `qzeros`, `scales`, maybe `g_idx`.
        bits: per weight.
        group_size: inputs per scale; -1 is all of them.
        shape: `(out, in)`.
    """

    module: str
    tensors: Mapping[str, StoredTensor]
    bits: int
    group_size: int
    shape: tuple[int, int]

    @property
    def parameter(self) -> str:
        """Name of the weight that it stands for."""
        return f"{self.module}.weight"

    def group_order(self) -> bytes:
        """Equal for layers that want their inputs in the same order."""
        order = self.tensors.get(ORDER)
        return b"" if order is None or self.group_size == -1 else read(order).astype(np.int64).tobytes()


def find_layers(tensors: Mapping[str, StoredTensor], settings: PackedSettings) -> list[PackedLayer]:
    """The packed layers, in the order of the file.

    Raises:
        ModelError: there are none, or one lacks tensors.
    """
    modules = dict.fromkeys(name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight"))
    if not modules:
        raise ModelError(
            f"the config says {settings.method}, and no tensor of the checkpoint is packed (`.qweight`)"
        )
    for name in tensors:
        module, _, part = name.rpartition(".")
        if part in (*PARTS, ORDER) and module not in modules:
            raise ModelError(f"tensor `{name}` belongs to no packed layer: there is no `{module}.qweight`")
    return [_layer(module, tensors, settings) for module in modules]


def _layer(module: str, tensors: Mapping[str, StoredTensor], settings: PackedSettings) -> PackedLayer:
    missing = [part for part in PARTS if f"{module}.{part}" not in tensors]
    if missing:
        raise ModelError(f"packed layer `{module}` has no {' and no '.join(missing)}")
    names = {part: f"{module}.{part}" for part in (*PARTS, ORDER)}
    parts = {part: tensors[name] for part, name in names.items() if name in tensors}
    for part, tensor in parts.items():
        if len(tensor.shape) != (1 if part == ORDER else 2) or 0 in tensor.shape:
            raise ModelError(f"`{tensor.name}` has shape {list(tensor.shape)}")
    rows, columns = parts["qweight"].shape
    if settings.method == "awq":
        if ORDER in parts:
            raise ModelError(f"packed layer `{module}` is AWQ and has {ORDER}, which only GPTQ does")
        fields = WORD_BITS // settings.bits
        shape = (columns * fields, rows) if settings.layout == "gemm" else (rows, columns * fields)
        return PackedLayer(module, parts, settings.bits, settings.group_size, shape)
    bits = _bits(parts, settings.bits)
    inputs = rows * WORD_BITS // bits
    group_size = _group_size(parts["scales"].shape[0], inputs, settings.group_size)
    return PackedLayer(module, parts, bits, group_size, (columns, inputs))


def _bits(parts: Mapping[str, StoredTensor], usual: int) -> int:
    """Bits of one layer, which may differ from the rest (`dynamic` of GPTQModel): `g_idx` counts the inputs."""
    if ORDER not in parts:
        return usual
    inputs = parts[ORDER].shape[0]
    bits, rest = divmod(parts["qweight"].shape[0] * WORD_BITS, inputs)
    return usual if rest else bits


def _group_size(groups: int, inputs: int, usual: int) -> int:
    """Inputs per scale of one layer, which may differ from the rest too."""
    if groups == 1:
        return -1
    if usual != -1 and -(-inputs // usual) == groups:
        return usual
    return inputs // groups if inputs % groups == 0 else usual


def load_layer(layer: PackedLayer, settings: PackedSettings) -> QuantizedWeight:
    """A layer's codes, scales and zero points.

    Raises:
        ModelError: its tensors do not fit each other, or contradict what the config says.
        UnsupportedError: bits or groups that edgeq does not take.
    """
    parts = {part: read(tensor) for part, tensor in layer.tensors.items()}
    try:
        if settings.method == "awq":
            found = import_awq(AwqLayer(**parts), layer.group_size, settings.layout)
        else:
            version = GPTQ_VERSIONS[settings.layout]
            found = import_gptq(GptqLayer(**parts), layer.bits, layer.group_size, version=version)
    except EdgeqError as error:
        raise type(error)(f"packed layer `{layer.module}`: {error.message}", hint=error.hint) from error
    if settings.is_symmetric and found.zero_points is not None:
        raise ModelError(
            f"packed layer `{layer.module}` has zero points {found.zero_points.min()} to {found.zero_points.max()}; "
            f"the config says symmetric, so that all are {1 << (layer.bits - 1)}",
            hint="the config may name the wrong checkpoint_format (gptq stores them less one, gptq_v2 as they are)",
        )
    return found


def read(tensor: StoredTensor) -> Array:
    """A whole tensor; floats as float32."""
    values = tensor.float_pieces() if tensor.dtype == "bfloat16" else tensor.pieces()
    return np.concatenate(list(values)).reshape(tensor.shape)
