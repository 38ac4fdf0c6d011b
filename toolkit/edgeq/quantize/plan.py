"""The quantization plan: what was decided, frozen and printable. Lowerings apply it; nothing else edits graphs."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
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
        rounding: how the int8 codes were chosen, `nearest` or `error-feedback`.
        largest_pair: largest sum of two neighbouring codes of one sign; up to `saturation.PAIR_LIMIT` integer sums are
            exact on every CPU. None for a layer that stays in float.
        widening: scales over those that 8 bits alone would need, mean over channels: what exact sums cost.
    """

    name: str
    quantized: bool
    reason: str
    input_range: tuple[float, float]
    output_low: FloatArray
    output_high: FloatArray
    bias_shift: FloatArray | None = None
    rounding: str = "nearest"
    largest_pair: int | None = None
    widening: float = 1.0


@dataclass(frozen=True, slots=True)
class EmbeddingDecision:
    """What happens to one embedding table."""

    name: str
    quantized: bool
    reason: str


@dataclass(frozen=True, slots=True)
class WeightDecision:
    """What happens to one weight-only layer or table, and what it costs. The codes are in the model file.

    Attributes:
        name: the layer (or table), as recipes name it.
        initializer: its weight; layers that share one share the decision.
        bits: 4 or 8.
        block_size: members per scale along the input axis, -1 per output channel.
        symmetric: no zero points.
        method: what made the codes; differs from the recipe's after a fallback.
        bits_per_weight: scales and zero points included.
        weight_error: relative error of the weight, `|Q - W| / |W|`.
        output_error: relative error of the layer's output on the calibration inputs, `|X (Q - W)| / |X W|`; GPTQ
            layer by layer moves Q away from W on purpose, and that counts too. None where no input statistics were
            collected (tables).
        notes: a fallback and its reason.
    """

    name: str
    initializer: str
    bits: int
    block_size: int
    symmetric: bool
    method: str
    bits_per_weight: float
    weight_error: float
    output_error: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class QuantizationPlan:
    """Every decision for one model, in graph order.

    Attributes:
        equalizations: scale moved from activations into weights.
        linears: static int8; a layer that is not quantized here may be in `weights` or `fp16`.
        embeddings: tables as int8 rows.
        settings: how it was decided (range method, alpha, calibration counts): plain JSON values.
        weights: weight-only layers and tables.
        fp16: initializers stored in float16.
    """

    equalizations: tuple[Equalization, ...]
    linears: tuple[LinearDecision, ...]
    embeddings: tuple[EmbeddingDecision, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights: tuple[WeightDecision, ...] = ()
    fp16: tuple[str, ...] = ()

    def linear(self, name: str) -> LinearDecision | None:
        """The decision for a layer, if there is one."""
        return next((decision for decision in self.linears if decision.name == name), None)

    def excluded(self) -> list[tuple[str, str]]:
        """`(layer, reason)` of everything that stays in float."""
        weight_only = {decision.name for decision in self.weights}
        kept: list[LinearDecision | EmbeddingDecision] = [*self.linears, *self.embeddings]
        return [
            (decision.name, decision.reason)
            for decision in kept
            if not decision.quantized and decision.name not in weight_only
        ]

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
            "weights": [asdict(item) for item in self.weights],
            "fp16": list(self.fp16),
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
            weights=tuple(
                WeightDecision(**{**item, "notes": tuple(item["notes"])})
                for item in document.get("weights", ())
            ),
            fp16=tuple(document.get("fp16", ())),
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
        "rounding": item.rounding,
        "largest_pair": item.largest_pair,
        "widening": item.widening,
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
        # Plans of older bundles lack these.
        rounding=item.get("rounding", "nearest"),
        largest_pair=item.get("largest_pair"),
        widening=item.get("widening", 1.0),
    )


def _base64(vector: FloatArray) -> str:
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode("ascii")


def _vector(text: str) -> FloatArray:
    return np.frombuffer(base64.b64decode(text), dtype="<f4").astype(np.float32)
