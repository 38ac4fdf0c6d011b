"""GPTQ and AWQ checkpoints made from a float one, packed field by field as the formats describe it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Tensors: TypeAlias = dict[str, npt.NDArray[Any]]
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which output of eight lies in each field of a word of AWQ's gemm layout."""


class Packed(NamedTuple):
    """A layer: its tensors, and the weight `[out, in]` float32 they stand for."""

    tensors: Tensors
    weight: npt.NDArray[np.float32]


class Rounded(NamedTuple):
    """A weight before packing: `codes [out, in]`, `zeros [groups, out]`, `scales [groups, out]`, `groups [in]`."""

    codes: npt.NDArray[np.int64]
    zeros: npt.NDArray[np.int64]
    scales: npt.NDArray[np.float16]
    groups: npt.NDArray[np.int64]

    @property
    def weight(self) -> npt.NDArray[np.float32]:
        """What the parts stand for."""
        steps = (self.codes - self.zeros[self.groups].T).astype(np.float32)
        return steps * self.scales[self.groups].T.astype(np.float32)


def round_weight(
    weight: npt.NDArray[np.float32],
    bits: int,
    group_size: int,
    *,
    symmetric: bool = False,
    order: npt.NDArray[np.int64] | None = None,
) -> Rounded:
    """Plain rounding of `[out, in]`; with an order, the inputs are dealt into groups in that order."""
    inputs = weight.shape[1]
    size = inputs if group_size == -1 else group_size
    groups = np.empty(inputs, np.int64)
    groups[np.arange(inputs) if order is None else order] = np.arange(inputs) // size
    top, middle = 2**bits - 1, 2 ** (bits - 1)
    scales, zeros = [], []
    for group in range(groups.max() + 1):
        part = weight[:, groups == group]
        low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
        if symmetric:
            scale = (np.abs(part).max(1) / (middle - 1)).astype(np.float16)
            zeros.append(np.full(len(part), middle))
        else:
            scale = ((high - low) / top).astype(np.float16)
            # From 1: version 1 of GPTQ cannot tell 0 from a wrapped field in every writer.
            zeros.append(np.clip(np.rint(-low / scale.astype(np.float32)), 1, top))
        scales.append(scale)
    stacked, points = np.stack(scales), np.stack(zeros).astype(np.int64)
    steps = np.rint(weight / stacked[groups].T.astype(np.float32)) + points[groups].T
    return Rounded(np.clip(steps, 0, top).astype(np.int64), points, stacked, groups)


def pack(values: npt.NDArray[np.int64], bits: int) -> npt.NDArray[np.int32]:
    """`[rows, n]` into words, the first of every `32 / bits` lowest."""
    fields = 32 // bits
    words = np.zeros((len(values), values.shape[1] // fields), np.uint64)
    for index in range(values.shape[1]):
        words[:, index // fields] |= values[:, index].astype(np.uint64) << np.uint64(bits * (index % fields))
    return words.astype(np.uint32).view(np.int32)


def gptq(
    weight: npt.NDArray[np.float32],
    bits: int = 4,
    group_size: int = 32,
    *,
    version: int = 1,
    symmetric: bool = False,
    order: npt.NDArray[np.int64] | None = None,
) -> Packed:
    """A layer as AutoGPTQ and GPTQModel store it."""
    found = round_weight(weight, bits, group_size, symmetric=symmetric, order=order)
    tensors = {
        "qweight": np.ascontiguousarray(pack(found.codes, bits).T),
        "qzeros": pack(found.zeros - (1 if version == 1 else 0), bits),
        "scales": found.scales,
        "g_idx": found.groups.astype(np.int32),
    }
    return Packed(tensors, found.weight)


def awq(
    weight: npt.NDArray[np.float32],
    group_size: int = 32,
    *,
    layout: str = "gemm",
    symmetric: bool = False,
) -> Packed:
    """A layer as AutoAWQ stores it."""
    found = round_weight(weight, 4, group_size, symmetric=symmetric)
    if layout == "gemv":
        return Packed(_gemv(found), found.weight)
    outputs = np.arange(len(weight)).reshape(-1, 8)[:, AWQ_ORDER].reshape(-1)
    tensors = {
        "qweight": pack(found.codes.T[:, outputs], 4),
        "qzeros": pack(found.zeros[:, outputs], 4),
        "scales": found.scales,
    }
    return Packed(tensors, found.weight)


def _gemv(found: Rounded) -> Tensors:
    """Rows of zero points and scales are filled up to whole words, and to whole 64 bits for groups below 128."""
    groups = len(found.scales)
    fill = -groups % 16
    zeros = np.pad(found.zeros.T, ((0, 0), (0, fill)))
    scales = np.pad(found.scales.T, ((0, 0), (0, fill)))
    return {"qweight": pack(found.codes, 4), "qzeros": pack(zeros, 4), "scales": scales}


def build_packed_checkpoint(
    source: Path,
    folder: Path,
    pack_layer: Callable[[str, npt.NDArray[np.float32]], Packed],
    settings: Mapping[str, Any],
    inside: str = "layers.",
) -> Tensors:
    """Write `folder` as `source` with its decoder layers' matrices packed; returns those as they now are.

    Args:
        source: a float checkpoint.
        folder: created.
        pack_layer: from the module's name and its `weight [out, in]`.
        settings: `quantization_config` of the config.
        inside: part of the names of the decoder layers' tensors.
    """
    from safetensors.numpy import load_file, save_file

    shutil.copytree(source, folder)
    tensors: Tensors = {}
    weights: Tensors = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if tensor.ndim != 2 or inside not in name:
            tensors[name] = tensor
            continue
        module = name.removesuffix(".weight")
        packed = pack_layer(module, tensor)
        tensors |= {f"{module}.{part}": value for part, value in packed.tensors.items()}
        weights[name] = packed.weight
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": dict(settings)}))
    return weights
