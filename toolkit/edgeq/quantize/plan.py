"""The quantization plan: what was decided, frozen and printable. Lowerings apply it; nothing else edits graphs."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeq.types import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Equalization:
    """Scale moved from an activation into the weights that read it (`x / s @ (s * W)`), exact in float.

    Attributes:
        tensor: the activation, `[..., channels]`.
        linears: layers whose weight rows are multiplied by `scale`.
        scale: `[channels]` float32, positive.
        folded_into: a layer whose output columns are divided by `scale`; without one an explicit Mul is inserted.
    """

    tensor: str
    linears: tuple[str, ...]
    scale: FloatArray
    folded_into: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LinearDecision:
    """What happens to one linear layer. Ranges are those of the equalized graph.

    Attributes:
        name: the layer (its MatMul's or Gemm's name).
        quantized: int8 weights and a static int8 input; otherwise it stays in float.
        reason: why, in a few words.
        input_range: `(lo, hi)` the input's grid must cover.
        output_low: lowest output per channel, `[out]`; with `output_high` for targets that must quantize outputs.
        output_high: highest output per channel, `[out]`.
        bias_shift: added to the bias against the mean error of quantization, `[out]`.
    """

    name: str
    quantized: bool
    reason: str
    input_range: tuple[float, float]
    output_low: FloatArray
    output_high: FloatArray
    bias_shift: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingDecision:
    """What happens to one embedding table."""

    name: str
    quantized: bool
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class QuantizationPlan:
    """Every decision for one model, in graph order.

    Attributes:
        settings: how it was decided (range method, alpha, calibration counts): plain JSON values.
    """

    equalizations: tuple[Equalization, ...]
    linears: tuple[LinearDecision, ...]
    embeddings: tuple[EmbeddingDecision, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def linear(self, name: str) -> LinearDecision | None:
        """The decision for a layer, if there is one."""
        return next((decision for decision in self.linears if decision.name == name), None)

    def excluded(self) -> list[tuple[str, str]]:
        """`(layer, reason)` of everything that stays in float."""
        kept: list[LinearDecision | EmbeddingDecision] = [*self.linears, *self.embeddings]
        return [(decision.name, decision.reason) for decision in kept if not decision.quantized]

    def to_json(self) -> dict[str, Any]:
        """A JSON document; vectors are base64 of little-endian float32."""
        return {
            "settings": dict(self.settings),
            "equalizations": [_equalization_json(item) for item in self.equalizations],
            "linears": [_linear_json(item) for item in self.linears],
            "embeddings": [
                {"name": table.name, "quantized": table.quantized, "reason": table.reason}
                for table in self.embeddings
            ],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> QuantizationPlan:
        """The inverse of `to_json`."""
        return cls(
            equalizations=tuple(
                Equalization(
                    item["tensor"], tuple(item["linears"]), _vector(item["scale"]), item["folded_into"]
                )
                for item in document["equalizations"]
            ),
            linears=tuple(_linear_from(item) for item in document["linears"]),
            embeddings=tuple(EmbeddingDecision(**item) for item in document["embeddings"]),
            settings=document["settings"],
        )


def _equalization_json(item: Equalization) -> dict[str, Any]:
    return {
        "tensor": item.tensor,
        "linears": list(item.linears),
        "folded_into": item.folded_into,
        "scale": _base64(item.scale),
    }


def _linear_json(item: LinearDecision) -> dict[str, Any]:
    return {
        "name": item.name,
        "quantized": item.quantized,
        "reason": item.reason,
        "input_range": list(item.input_range),
        "output_low": _base64(item.output_low),
        "output_high": _base64(item.output_high),
        "bias_shift": None if item.bias_shift is None else _base64(item.bias_shift),
    }


def _linear_from(item: Mapping[str, Any]) -> LinearDecision:
    low, high = item["input_range"]
    return LinearDecision(
        name=item["name"],
        quantized=item["quantized"],
        reason=item["reason"],
        input_range=(low, high),
        output_low=_vector(item["output_low"]),
        output_high=_vector(item["output_high"]),
        bias_shift=None if item["bias_shift"] is None else _vector(item["bias_shift"]),
    )


def _base64(vector: FloatArray) -> str:
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode("ascii")


def _vector(text: str) -> FloatArray:
    return np.frombuffer(base64.b64decode(text), dtype="<f4").astype(np.float32)
