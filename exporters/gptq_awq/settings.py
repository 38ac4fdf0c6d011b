"""How a GPTQ or AWQ checkpoint says that it is packed: `quantization_config`, or the files that older tools wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.errors import ModelError
from edgeq.exporters.json_files import read_json
from edgeq.quantize.weight_only.awq_import import AWQ_BITS, LAYOUTS
from edgeq.quantize.weight_only.packed_words import PACKED_BITS

OLDER_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
"""Beside `config.json` in older checkpoints, by what wrote them."""
GPTQ_VERSIONS = {"gptq": 1, "gptq_v2": 2}
"""By `checkpoint_format`: zero points less one, or as they are."""
WHOLE_INPUT = -1


@dataclass(frozen=True, slots=True)
class PackedSettings:
    """How a checkpoint is packed.

    Attributes:
        method: `gptq` or `awq`.
        bits: per weight, where a layer does not say otherwise.
        group_size: inputs per scale; -1 is all of them.
        layout: `gptq` or `gptq_v2`; `gemm` or `gemv`.
        is_symmetric: whether it claims that all zero points are the middle code (GPTQ).
    """

    method: str
    bits: int
    group_size: int
    layout: str
    is_symmetric: bool

    @property
    def label(self) -> str:
        """As recipes and bundles name it: `gptq-4bit-g128`."""
        return (
            f"{self.method}-{self.bits}bit{'' if self.group_size == WHOLE_INPUT else f'-g{self.group_size}'}"
        )


def quantization_of(folder: Path, config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a folder says about its quantization, with `quant_method`; None for a float checkpoint.

    Raises:
        ModelError: a file cannot be read.
    """
    found = config.get("quantization_config")
    if found:
        return found if isinstance(found, dict) else {"quant_method": str(found)}
    for name, method in OLDER_FILES.items():
        if (folder / name).is_file():
            described = read_json(folder / name)
            if not isinstance(described, dict):
                raise ModelError(f"`{folder / name}` is no JSON object")
            return {"quant_method": method, **described}
    return None


def read_settings(described: Mapping[str, Any]) -> PackedSettings:
    """The settings of a checkpoint.

    Args:
        described: from `quantization_of`.

    Raises:
        ModelError: values are missing or of the wrong type, or another method, layout or number of bits.
    """
    method = described.get("quant_method")
    if not isinstance(method, str) or method not in _READERS:
        raise ModelError(
            f"the checkpoint is already quantized ({method}), expected float weights, {' or '.join(_READERS)}",
            hint="export the original model: edgeq quantizes it for the target",
        )
    return _READERS[method](described)


def _gptq(described: Mapping[str, Any]) -> PackedSettings:
    layout = described.get("checkpoint_format") or described.get("format") or "gptq"
    if described.get("is_marlin_format"):
        layout = "marlin"
    if layout not in GPTQ_VERSIONS:
        raise ModelError(
            f"GPTQ in format `{layout}`, expected {' or '.join(GPTQ_VERSIONS)}",
            hint="it is made for one kind of GPU; take the checkpoint in format gptq",
        )
    words = described.get("pack_dtype", "int32")
    if words != "int32":
        raise ModelError(f"GPTQ packed in {words}, expected int32")
    bits = _whole(described, "bits")
    if bits not in PACKED_BITS:
        raise ModelError(f"GPTQ with {bits} bits, expected {' or '.join(map(str, PACKED_BITS))}")
    return PackedSettings(
        "gptq", bits, _group_size(described, "group_size"), layout, described.get("sym") is True
    )


def _awq(described: Mapping[str, Any]) -> PackedSettings:
    layout = str(described.get("version") or described.get("format") or "gemm").lower()
    if layout not in LAYOUTS:
        raise ModelError(
            f"AWQ in layout `{layout}`, expected {' or '.join(LAYOUTS)}",
            hint="it is made for one kind of GPU; take the checkpoint in layout gemm",
        )
    bits = _whole(described, "bits", "w_bit")
    if bits != AWQ_BITS:
        raise ModelError(f"AWQ with {bits} bits, expected {AWQ_BITS}")
    return PackedSettings("awq", bits, _group_size(described, "group_size", "q_group_size"), layout, False)


_READERS: Mapping[str, Callable[[Mapping[str, Any]], PackedSettings]] = {"gptq": _gptq, "awq": _awq}


def _group_size(described: Mapping[str, Any], *names: str) -> int:
    found = _whole(described, *names)
    if found != WHOLE_INPUT and found < 1:
        raise ModelError(f"quantization_config has `{names[0]}` {found}, expected -1 or a positive number")
    return found


def _whole(described: Mapping[str, Any], *names: str) -> int:
    """A whole number under the first of these names that is there."""
    found = next((described[name] for name in names if name in described), None)
    if not isinstance(found, int) or isinstance(found, bool):
        raise ModelError(f"quantization_config has `{names[0]}` {found!r}, expected a whole number")
    return found
