"""Round to nearest, over the full signed range.

Symmetric blocks map their largest-magnitude member to the lowest code (d = max / -8, the sign kept, as
llama.cpp's Q4_0 does), which uses all 16 codes; a [-7, 7] grid would waste one. Asymmetric blocks map
[min, max], widened to contain zero, to [0, 15] with an integer zero point.
"""

from __future__ import annotations

import numpy as np

from edgeq.quantize.formats import Blocks
from edgeq.quantize.weight_only.blocks import quantize_with
from edgeq.quantize.weight_only.quantized_weight import LayerStats, QuantizedWeight, round_scales
from edgeq.types import Array, FloatArray


def quantize(weight: Array, spec: Blocks, stats: LayerStats | None = None) -> QuantizedWeight:
    """Round `weight [K, N]` to the nearest codes; `stats` is not used."""
    return quantize_with("rtn", weight, spec, fit)


def fit(x: FloatArray, spec: Blocks, importance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Scales and zero points `[rows, blocks]` that cover each block of `x [block, rows, blocks]`."""
    if spec.symmetric:
        scales = round_scales(signed_peak(x) / np.float32(-spec.middle), spec)
        return scales, np.full_like(scales, spec.middle)
    lo, hi = np.minimum(x.min(0), 0), np.maximum(x.max(0), 0)
    # Divide before subtracting: hi - lo may exceed float32.
    scales = round_scales(hi / spec.top - lo / spec.top, spec)
    return scales, np.clip(np.rint(-lo / scales), 0, spec.top)


def signed_peak(x: FloatArray) -> FloatArray:
    """The member of largest magnitude of each block, sign kept: `[rows, blocks]`."""
    lo, hi = x.min(0), x.max(0)
    return np.asarray(np.where(-lo > hi, lo, hi), np.float32)
