"""What the weights of a layer are stored as: one class per format, with what follows from it.

Recipes, plans and caches spell a format by its name, which is read once; everything else asks the class. A new format
is a class here and its place in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol, Self, TypeAlias

from edgeq.errors import ConfigError

ScaleDtype: TypeAlias = Literal["float16", "float32"]
BLOCK_SIZES = (16, 32, 64, 128, 256)
PER_CHANNEL = -1


class WeightFormat(Protocol):
    """What every format answers."""

    name: ClassVar[str]
    """As recipes, plans and caches spell it."""

    widths: ClassVar[tuple[int, ...]]
    """What a recipe may say for `bits`; empty where the format has its own."""

    is_quantized: ClassVar[bool]
    """Whether weights leave floating point."""

    is_rounded_here: ClassVar[bool]
    """Whether an export decides numbers: those of floats are kept, those of stored codes were decided before."""

    table_method: ClassVar[str]
    """The method for tables, which have no inputs to look at; empty where no method chooses anything."""

    @classmethod
    def of(cls, bits: int, block_size: int, symmetric: bool) -> Self:
        """The format with what a recipe says of it.

        Raises:
            ConfigError: there is no kernel for that.
        """

    @property
    def bits(self) -> int | None:
        """Bits of a code or a float; None where only the checkpoint or the target knows."""

    @property
    def label(self) -> str:
        """Its name in tables."""

    @property
    def kernel(self) -> str:
        """What computes with it, as `advise` has measured kernels."""

    @property
    def is_row_int8(self) -> bool:
        """Whether a table in it is int8 with one symmetric scale per row."""

    def bits_per_weight(self, in_features: int) -> float:
        """Stored bits per weight, scales and zero points included.

        Raises:
            ConfigError: only the checkpoint or the target knows.
        """


class _Plain:
    """A format of which a recipe says nothing but the name."""

    __slots__ = ()
    widths: ClassVar[tuple[int, ...]] = ()
    is_quantized: ClassVar[bool] = False
    is_rounded_here: ClassVar[bool] = False
    is_row_int8: ClassVar[bool] = False
    table_method: ClassVar[str] = ""
    bits: ClassVar[int | None] = None

    name: ClassVar[str]

    @classmethod
    def of(cls, bits: int, block_size: int, symmetric: bool) -> Self:
        """The one there is."""
        return cls()

    @property
    def label(self) -> str:
        """Its name."""
        return self.name

    @property
    def kernel(self) -> str:
        """Its name."""
        return self.name


class Float(_Plain):
    """Weights that stay floats."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Float32(Float):
    """As they are."""

    name: ClassVar[str] = "fp32"
    bits: ClassVar[int | None] = 32

    def bits_per_weight(self, in_features: int) -> float:
        """32."""
        return 32.0


@dataclass(frozen=True, slots=True)
class Float16(Float):
    """Stored in half the bytes, computed in float32."""

    name: ClassVar[str] = "fp16"
    bits: ClassVar[int | None] = 16

    def bits_per_weight(self, in_features: int) -> float:
        """16."""
        return 16.0


@dataclass(frozen=True, slots=True)
class StaticInt8(_Plain):
    """Int8 weights with a scale per output channel, and static int8 inputs; tables as int8 rows."""

    name: ClassVar[str] = "int8-static"
    is_quantized: ClassVar[bool] = True
    is_rounded_here: ClassVar[bool] = True
    is_row_int8: ClassVar[bool] = True
    bits: ClassVar[int | None] = 8

    def bits_per_weight(self, in_features: int) -> float:
        """8, and a float32 per channel."""
        return 8.0 + 32 / in_features


@dataclass(frozen=True, slots=True)
class Blocks:
    """Codes in blocks that share a scale, and float inputs: MatMulNBits and GatherBlockQuantized.

    Attributes:
        bits: 4 or 8.
        block_size: members per scale along the input axis, 16 to 256 (a power of two); -1 is one scale per
            output channel.
        symmetric: zero point fixed at the middle code; otherwise an integer zero point per block.
        scale_dtype: how scales are stored. Methods round to it before they choose codes.
    """

    name: ClassVar[str] = "weight-only"
    widths: ClassVar[tuple[int, ...]] = (4, 8)
    is_quantized: ClassVar[bool] = True
    is_rounded_here: ClassVar[bool] = True
    table_method: ClassVar[str] = "scale_search"

    bits: int = 4
    block_size: int = 32
    symmetric: bool = True
    scale_dtype: ScaleDtype = "float16"

    def __post_init__(self) -> None:
        if self.bits not in self.widths:
            raise ConfigError(f"{self.bits}-bit weights asked for; MatMulNBits has fast kernels for 4 and 8")
        if self.block_size not in (*BLOCK_SIZES, PER_CHANNEL):
            allowed = ", ".join(map(str, BLOCK_SIZES))
            raise ConfigError(f"block size {self.block_size}; expected one of {allowed}, or -1 per channel")

    @classmethod
    def of(cls, bits: int, block_size: int, symmetric: bool) -> Self:
        """With scales in float16."""
        return cls(bits, block_size, symmetric)

    @property
    def label(self) -> str:
        """`int4 b32 asym`."""
        return block_label(self.bits, self.block_size, self.symmetric)

    @property
    def kernel(self) -> str:
        """Those for 4 and for 8 bits."""
        return f"weight-only {self.bits}"

    @property
    def is_row_int8(self) -> bool:
        """8 bits, a scale per row, no zero points."""
        return self.bits == 8 and self.block_size == PER_CHANNEL and self.symmetric

    @property
    def middle(self) -> int:
        """The code that means zero when symmetric: 8 or 128."""
        return int(2 ** (self.bits - 1))

    @property
    def top(self) -> int:
        """The largest code: 15 or 255."""
        return int(2**self.bits - 1)

    def fitted(self, in_features: int) -> Blocks:
        """The same, but no block longer than the padded row: the rest would be padding under the same scale."""
        enough = next((size for size in BLOCK_SIZES if size >= in_features), self.block_size)
        return replace(self, block_size=min(self.block_size, enough))

    def bits_per_weight(self, in_features: int) -> float:
        """Stored bits per weight, with scales, zero points and the padding of the last block."""
        block_size = self.fitted(in_features).block_size
        width = in_features if block_size == PER_CHANNEL else block_size
        blocks = -(-in_features // width)
        scale_bits = 16 if self.scale_dtype == "float16" else 32
        zero_bits = 0 if self.symmetric else self.bits
        return blocks * (width * self.bits + scale_bits + zero_bits) / in_features


@dataclass(frozen=True, slots=True)
class Palette:
    """Indices into a table of floats.

    Attributes:
        bits: 4, 6 or 8.
        channels: output channels per table, -1 one for the whole weight (embedding tables always have one).
    """

    name: ClassVar[str] = "palette"
    widths: ClassVar[tuple[int, ...]] = (4, 6, 8)
    is_quantized: ClassVar[bool] = True
    is_rounded_here: ClassVar[bool] = True
    is_row_int8: ClassVar[bool] = False
    table_method: ClassVar[str] = "kmeans"
    label: ClassVar[str] = "palette"
    kernel: ClassVar[str] = "palette"

    bits: int
    channels: int

    @classmethod
    def of(cls, bits: int, block_size: int, symmetric: bool) -> Self:
        """A recipe's block size is the channels of a table."""
        return cls(bits, block_size)

    def bits_per_weight(self, in_features: int) -> float:
        """Of the indices and a table's share."""
        # A table for the whole weight is too small to count, and its share is not known from the width alone.
        table = 0.0 if self.channels == PER_CHANNEL else 16 * 2**self.bits / (self.channels * in_features)
        return self.bits + table


@dataclass(frozen=True, slots=True)
class Stored(_Plain):
    """Quantized weights as the checkpoint has them."""

    name: ClassVar[str] = "stored"
    is_quantized: ClassVar[bool] = True

    def bits_per_weight(self, in_features: int) -> float:
        """Not known here."""
        raise ConfigError("how many bits a stored weight takes is known from its checkpoint only")


@dataclass(frozen=True, slots=True)
class FileType(_Plain):
    """As the file type of the recipe's name says, which one target alone has."""

    name: ClassVar[str] = "file-type"
    is_rounded_here: ClassVar[bool] = True

    def bits_per_weight(self, in_features: int) -> float:
        """Not known here."""
        raise ConfigError("how many bits a weight of a file type takes is known to its target only")


FORMATS: Mapping[str, type[WeightFormat]] = {
    kind.name: kind for kind in (Float32, Float16, StaticInt8, Blocks, Palette, Stored, FileType)
}


def format_class(name: str) -> type[WeightFormat]:
    """The format of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in FORMATS:
        raise ConfigError(f"unknown weight format `{name}`; expected one of {', '.join(FORMATS)}")
    return FORMATS[name]


def block_label(bits: int, block_size: int, symmetric: bool) -> str:
    """`int4 b32`, `int8 per channel`, `int4 b32 asym`."""
    block = "per channel" if block_size == PER_CHANNEL else f"b{block_size}"
    return f"int{bits} {block}{'' if symmetric else ' asym'}"
