"""An int8 weight with one scale per output channel, whose sums are exact on every CPU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeq.saturation import CODE_LIMIT, pair_safe_scale, pair_sums, round_pair_safe
from edgeq.types import Array, FloatArray

NEAREST = "nearest"


@dataclass(frozen=True, slots=True, eq=False)
class StaticWeight:
    """Codes of one linear layer.

    Attributes:
        codes: int8 `[in, out]`, no pair of which can leave 16 bits.
        scale: `[out]` float32.
        rounding: how the codes were chosen.
    """

    codes: Array
    scale: FloatArray
    rounding: str = NEAREST

    def dequantize(self) -> FloatArray:
        """The weight that the codes stand for, `[in, out]`."""
        values: FloatArray = self.codes.astype(np.float32) * self.scale
        return values

    @property
    def largest_pair(self) -> int:
        """Largest sum of two neighbouring codes of one sign; at most `saturation.PAIR_LIMIT`."""
        return int(pair_sums(self.codes).max(initial=0.0))

    def widening(self, weight: Array) -> float:
        """What exact sums cost: the scales over those that 8 bits alone would need, geometric mean over channels."""
        alone = np.abs(weight).max(axis=0) / CODE_LIMIT
        used = alone > 0
        return float(np.exp(np.mean(np.log(self.scale[used] / alone[used])))) if used.any() else 1.0


def nearest_codes(weight: Array) -> StaticWeight:
    """Each weight `[in, out]` to the nearest code under the smallest scales that are pair-safe."""
    scale = pair_safe_scale(weight)
    return StaticWeight(round_pair_safe(weight, scale), scale)
