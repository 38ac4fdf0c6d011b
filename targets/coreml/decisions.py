"""What the Core ML lowering is told about each weight and activation, and what that needs from iOS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from edgeq.errors import ConfigError, UnsupportedError
from edgeq.numerics import affine_params
from edgeq.quantize.weight_only.palette import Palette
from edgeq.types import Array, FloatArray

ComputeDtype: TypeAlias = Literal["fp16", "fp32"]
SUPPORTED_IOS = (16, 17, 18)


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """A weight that a quantizer already turned into integers.

    Attributes:
        values: int8 signed codes `[rows, columns]`, rows being output channels (or vocabulary entries).
        scale: float32 `[rows, blocks]`; one block means per channel.
        zero_point: integers `[rows, blocks]` in the codes' range, or None for 0.
    """

    values: Array
    scale: FloatArray
    zero_point: Array | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Int8Weight:
    """Signed 8-bit, symmetric, one scale per output channel (per row for an embedding table).

    Attributes:
        equalization: `[in]`, SmoothQuant's s: the input is divided by it, the weight's columns multiplied.
        codes: codes of the (already equalized) weight; rounded to nearest here when None.
    """

    equalization: FloatArray | None = None
    codes: Codes | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Int4Weight:
    """Signed 4-bit in blocks along the input axis, one float16 scale per block (iOS 18).

    Attributes:
        block_size: columns per block; it must divide the number of columns.
        equalization: `[in]`, AWQ's scales, as in `Int8Weight`.
        codes: a quantizer's result (GPTQ, HQQ); rounded to nearest here when None.
    """

    block_size: int = 32
    equalization: FloatArray | None = None
    codes: Codes | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PaletteWeight:
    """A lookup table of `2 ** bits` values.

    Attributes:
        bits: 4, 6 or 8.
        group_rows: rows that share a table; None is one table per tensor. Groups need iOS 18.
        palette: the table and the indices; found by k-means here when None.
    """

    bits: int = 4
    group_rows: int | None = None
    palette: Palette | None = None

    @classmethod
    def of(cls, palette: Palette) -> PaletteWeight:
        """What a quantizer found."""
        tables, values = palette.luts.shape
        group = None if tables == 1 else len(palette.indices) // tables
        return cls(int(values - 1).bit_length(), group, palette)


WeightDecision: TypeAlias = Int8Weight | Int4Weight | PaletteWeight


def equalization_of(decision: WeightDecision | None) -> FloatArray | None:
    """The per-input scale a weight carries, if its decision has one."""
    return None if decision is None or isinstance(decision, PaletteWeight) else decision.equalization


@dataclass(frozen=True, slots=True)
class ActivationQuant:
    """Static per-tensor quantization of a linear layer's input (after equalization).

    `q = clip(round(x / scale) + zero_point)`; int8 is -128..127, uint8 is 0..255.
    """

    scale: float
    zero_point: int
    dtype: Literal["int8", "uint8"] = "int8"

    @classmethod
    def from_range(cls, lo: float, hi: float, *, symmetric: bool = False) -> ActivationQuant:
        """Cover `[lo, hi]`, widened to contain zero, with int8."""
        scale, zero_point = affine_params(lo, hi, "int8", symmetric)
        return cls(float(scale), int(zero_point))


@dataclass(frozen=True, slots=True)
class PackageInfo:
    """What a package says about itself.

    Attributes:
        name: used for the file and as Xcode's generated Swift class; see `swift_class_name`.
        description: one sentence.
        author: who made the model.
        license: its licence.
        version: of the model.
        inputs: a description per input name.
        outputs: a description per output name.
        labels: class names, index order.
        user_defined: further keys, kept verbatim under `edgeq.`-style names.
    """

    name: str = "Model"
    description: str = ""
    author: str = ""
    license: str = ""
    version: str = "1"
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    user_defined: Mapping[str, str] = field(default_factory=dict)


def check_platform(
    ios: int,
    weights: Iterable[WeightDecision],
    *,
    static_activations: bool,
    seq_lens: tuple[int, ...],
    inputs: int,
) -> None:
    """Refuse an iOS version that cannot hold what was asked, with the reason.

    Raises:
        ConfigError: an iOS version edgeq does not know.
        UnsupportedError: a decision needs a newer iOS.
    """
    if ios not in SUPPORTED_IOS:
        raise ConfigError(f"iOS {ios} is not a Core ML deployment target of edgeq; expected 16, 17 or 18")
    needed, reason = minimum_ios(weights, static_activations, seq_lens, inputs)
    if ios < needed:
        raise UnsupportedError(
            f"iOS {ios} was asked for, and {reason} needs iOS {needed}", hint=f"--ios {needed}"
        )


def minimum_ios(
    weights: Iterable[WeightDecision], static_activations: bool, seq_lens: tuple[int, ...], inputs: int
) -> tuple[int, str]:
    """The oldest iOS for these decisions and the decision that sets it."""
    needs = [(16, "an ML program with fp16 inputs")]
    if static_activations:
        needs.append((17, "static activation quantization (the quantize and dequantize operators)"))
    for decision in weights:
        if isinstance(decision, Int4Weight):
            needs.append((18, "a block-wise int4 weight (constexpr_blockwise_shift_scale)"))
        if (
            isinstance(decision, Int8Weight)
            and decision.codes is not None
            and decision.codes.scale.shape[1] > 1
        ):
            needs.append((18, "a block-wise int8 weight (constexpr_blockwise_shift_scale)"))
        if isinstance(decision, PaletteWeight) and decision.group_rows is not None:
            needs.append((18, "a lookup table per group of rows"))
    if len(seq_lens) > 1 and inputs > 1:
        needs.append(
            (18, f"{len(seq_lens)} sequence lengths on a model with {inputs} inputs (enumerated shapes)")
        )
    return max(needs, key=lambda need: need[0])
