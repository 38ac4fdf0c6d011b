"""Weight-only quantization: one file per method, one interface.

`quantize(weight [K, N], spec, stats) -> QuantizedWeight`, found by name in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import TypeAlias

from edgeq.errors import ConfigError
from edgeq.quantize.weight_only import awq, gptq, hqq, rtn, scale_search
from edgeq.quantize.weight_only.base import LayerStats, QuantizedWeight, WeightSpec
from edgeq.types import Array

__all__ = [
    "GRAM_METHODS",
    "INPUT_METHODS",
    "METHODS",
    "LayerStats",
    "QuantizedWeight",
    "WeightSpec",
    "quantize",
]

Method: TypeAlias = Callable[[Array, WeightSpec, LayerStats | None], QuantizedWeight]

METHODS: dict[str, Method] = {
    "rtn": rtn.quantize,
    "scale_search": scale_search.quantize,
    "hqq": hqq.quantize,
    "gptq": gptq.quantize,
    "awq": awq.quantize,
}
GRAM_METHODS = frozenset({"gptq", "awq"})
"""Those that look at X^T X of a layer's input."""
INPUT_METHODS = GRAM_METHODS | {"scale_search", "kmeans"}
"""Those, and the ones that look at E[x^2]; `kmeans` makes palettes (`palette.py`)."""


def quantize(
    method: str, weight: Array, spec: WeightSpec, stats: LayerStats | None = None
) -> QuantizedWeight:
    """Quantize `weight [K, N]` by the method of that name.

    Raises:
        ConfigError: there is no such method.
        ModelError: the weight is not a finite matrix.
        DataError: the statistics are not finite or belong to another layer.
    """
    if method not in METHODS:
        close = get_close_matches(method, METHODS, n=1)
        raise ConfigError(
            f"unknown weight-only method `{method}`; expected one of {', '.join(METHODS)}",
            hint=f"did you mean `{close[0]}`?" if close else None,
        )
    return METHODS[method](weight, spec, stats)
