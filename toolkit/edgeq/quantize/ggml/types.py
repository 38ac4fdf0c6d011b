"""The block types of GGUF files that edgeq writes, as data.

Layouts are those of ggml (`ggml-common.h` of llama.cpp). Every type stores `step * code + offset`:

- the types with one scale per block of 32 (Q4_0 ... Q8_0): `step` is a float16, `offset` 0 or a second float16;
- the K types, super-blocks of 256: `step = d * scale` and `offset = -dmin * minimum`, with two float16 per super-block
  and small whole scales and minimums per sub-block of 32 or 16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BlockType:
    """One type.

    Attributes:
        name: as ggml spells it.
        block: weights of a block.
        block_bytes: bytes of a block.
        members: weights that share a step.
        low: smallest code.
        high: largest code.
        has_minimum: an offset is stored.
        scale_low: smallest whole scale of a sub-block; None for types without sub-blocks.
        scale_high: largest whole scale (and minimum) of a sub-block.
    """

    name: str
    block: int
    block_bytes: int
    members: int
    low: int
    high: int
    has_minimum: bool = False
    scale_low: int | None = None
    scale_high: int = 0

    @property
    def is_super(self) -> bool:
        """Whether blocks are super-blocks with sub-blocks."""
        return self.scale_low is not None

    @property
    def is_coarse(self) -> bool:
        """Whether it has so few codes that the weights far from 0 decide what a block is worth."""
        return self.high - self.low < 32

    @property
    def sub_blocks(self) -> int:
        """Steps per block."""
        return self.block // self.members

    @property
    def bits_per_weight(self) -> float:
        """Stored bits, scales included."""
        return 8 * self.block_bytes / self.block


BLOCK_TYPES: Mapping[str, BlockType] = {
    kind.name: kind
    for kind in (
        BlockType("Q4_0", 32, 18, 32, -8, 7),
        BlockType("Q4_1", 32, 20, 32, 0, 15, has_minimum=True),
        BlockType("Q5_0", 32, 22, 32, -16, 15),
        BlockType("Q5_1", 32, 24, 32, 0, 31, has_minimum=True),
        # -128 is left out, as ggml leaves it out: kernels negate codes.
        BlockType("Q8_0", 32, 34, 32, -127, 127),
        BlockType("Q4_K", 256, 144, 32, 0, 15, has_minimum=True, scale_low=0, scale_high=63),
        BlockType("Q5_K", 256, 176, 32, 0, 31, has_minimum=True, scale_low=0, scale_high=63),
        BlockType("Q6_K", 256, 210, 16, -32, 31, scale_low=-128, scale_high=127),
    )
}
"""By name."""
