"""The file types of GGUF, and which type each tensor gets in a file of that type.

The mixing rules are those of llama.cpp (`llama_tensor_get_type_impl` in src/llama-quant.cpp) for dense decoders, as it
applies them when it has an importance matrix: edgeq always calibrates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edgeq.quantize.ggml import BLOCK_TYPES
from edgeq.quantize.recipes.layers import use_more_bits
from edgeq.types import Precision

FLOAT_BYTES: Mapping[str, int] = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, slots=True)
class FileType:
    """One file type.

    Attributes:
        label: as file names spell it.
        number: `general.file_type`.
        tensor_type: of most tensors.
        precision: its family, which decides the default gate.
        summary: one line for `edgeq targets`.
    """

    label: str
    number: int
    tensor_type: str
    precision: Precision
    summary: str

    @property
    def is_quantized(self) -> bool:
        """Whether weights become blocks of codes."""
        return self.tensor_type in BLOCK_TYPES


FILE_TYPES: Mapping[str, FileType] = {
    "f32": FileType("F32", 0, "F32", Precision.FP32, "32-bit float"),
    "f16": FileType("F16", 1, "F16", Precision.FP16, "16-bit float"),
    "bf16": FileType("BF16", 32, "BF16", Precision.FP16, "bfloat16: the range of float32, three digits"),
    "q8_0": FileType("Q8_0", 7, "Q8_0", Precision.INT8, "8 bits in blocks of 32"),
    "q6_k": FileType("Q6_K", 18, "Q6_K", Precision.INT4, "6 bits in super-blocks of 256"),
    "q5_k_m": FileType("Q5_K_M", 17, "Q5_K", Precision.INT4, "5 bits, 6 for half of V and down projections"),
    "q5_k_s": FileType("Q5_K_S", 16, "Q5_K", Precision.INT4, "5 bits in super-blocks of 256"),
    "q5_1": FileType("Q5_1", 9, "Q5_1", Precision.INT4, "5 bits with a minimum, in blocks of 32"),
    "q5_0": FileType("Q5_0", 8, "Q5_0", Precision.INT4, "5 bits in blocks of 32"),
    "q4_k_m": FileType("Q4_K_M", 15, "Q4_K", Precision.INT4, "4 bits, 6 for half of V and down projections"),
    "q4_k_s": FileType(
        "Q4_K_S", 14, "Q4_K", Precision.INT4, "4 bits, 5 for the first V and down projections"
    ),
    "q4_1": FileType("Q4_1", 3, "Q4_1", Precision.INT4, "4 bits with a minimum, in blocks of 32"),
    "q4_0": FileType("Q4_0", 2, "Q4_0", Precision.INT4, "4 bits in blocks of 32"),
}
"""By the name that `--precision` takes, most bits first."""

RECIPES: Mapping[str, str] = {
    "fp32": "f32",
    "fp16": "f16",
    "q8": "q8_0",
    "int8": "q8_0",
    "q6": "q6_k",
    "q5_k_m": "q5_k_m",
    "q4_k_m": "q4_k_m",
    "q4_k_s": "q4_k_s",
    "q4": "q4_0",
    "int4": "q4_0",
}
"""The file type that stands for a recipe of that name."""

_FALLBACKS: Mapping[str, str] = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""For rows that are no whole super-blocks."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor is in the model.

    Attributes:
        name: as the file names it.
        columns: length of a row.
        layers: of the model.
        is_head: it is the output, or a table that is also the output.
    """

    name: str
    columns: int
    layers: int
    is_head: bool = False

    @property
    def layer(self) -> int:
        """Number of its layer, -1 outside of any."""
        found = re.match(r"blk\.(\d+)\.", self.name)
        return int(found[1]) if found else -1

    def is_part(self, *parts: str) -> bool:
        """Whether it is one of these parts of a layer."""
        return any(f".{part}.weight" in self.name for part in parts)


def stays_float(name: str, dimensions: int) -> bool:
    """Tensors that no file type quantizes: vectors, norms, positions."""
    return dimensions < 2 or "_norm.weight" in name or name in ("position_embd.weight", "rope_freqs.weight")


def tensor_type(file_type: str, place: Place) -> str:
    """The type of one matrix.

    Args:
        file_type: a key of `FILE_TYPES`.
        place: of the matrix.
    """
    base = FILE_TYPES[file_type].tensor_type
    if base not in BLOCK_TYPES:
        return base
    return fallback(_mixed(file_type, base, place), place.columns)


def fallback(kind: str, columns: int) -> str:
    """The type itself, or what stands in for it where rows are no whole blocks."""
    if columns % BLOCK_TYPES[kind].block == 0:
        return kind
    other = _FALLBACKS.get(kind, kind)
    return other if columns % BLOCK_TYPES[other].block == 0 else "F16"


def _mixed(file_type: str, base: str, place: Place) -> str:
    layer, count = place.layer, place.layers
    if place.is_head:
        return "Q8_0" if base == "Q8_0" or place.columns % BLOCK_TYPES[base].block else "Q6_K"
    is_value, is_down = place.is_part("attn_v", "attn_qkv"), place.is_part("ffn_down")
    if file_type in ("q4_k_m", "q5_k_m") and (is_value or is_down):
        return "Q6_K" if use_more_bits(layer, count) else base
    if file_type == "q4_k_s" and ((is_value and layer < 4) or (is_down and layer < count // 8)):
        return "Q5_K"
    if file_type in ("q4_0", "q5_0") and is_down and layer < count // 8:
        return {"q4_0": "Q4_1", "q5_0": "Q5_1"}[file_type]
    return base
