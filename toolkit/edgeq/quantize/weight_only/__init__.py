"""Weight-only quantization: one file per method, one interface per format, found in `methods.METHODS`.

Blocks: `quantize(weight [K, N], spec, stats) -> QuantizedWeight`. Palettes: `quantize(weight [K, N], spec, stats) ->
(Palette, notes)`.
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from types import ModuleType

from edgeq.errors import ConfigError
from edgeq.quantize import formats
from edgeq.quantize.methods import METHODS, methods_for
from edgeq.quantize.weight_only.blocks import Fit
from edgeq.quantize.weight_only.palette import Palette
from edgeq.quantize.weight_only.quantized_weight import LayerStats, QuantizedWeight
from edgeq.types import Array

__all__ = ["LayerStats", "QuantizedWeight", "fit_of", "palettize", "quantize"]


def quantize(
    method: str, weight: Array, spec: formats.Blocks, stats: LayerStats | None = None
) -> QuantizedWeight:
    """Quantize `weight [K, N]` by the method of that name.

    Raises:
        ConfigError: there is no such method.
        ModelError: the weight is not a finite matrix.
        DataError: the statistics are not finite or belong to another layer.
    """
    found: QuantizedWeight = _module(method, formats.Blocks).quantize(weight, spec, stats)
    return found


def palettize(
    method: str, weight: Array, spec: formats.Palette, stats: LayerStats | None = None
) -> tuple[Palette, tuple[str, ...]]:
    """A palette of `weight [K, N]` by the method of that name, its rows being output channels, and notes.

    Raises:
        ConfigError: there is no such method, or the output channels cannot be divided.
        ModelError: the weight is not a finite matrix.
        DataError: the statistics are not finite or belong to another layer.
    """
    found: tuple[Palette, tuple[str, ...]] = _module(method, formats.Palette).quantize(weight, spec, stats)
    return found


def fit_of(method: str) -> Fit:
    """How a method that goes by rows chooses a block's parameters."""
    found: Fit = _module(method, formats.Blocks).fit
    return found


def _module(method: str, kind: type[formats.WeightFormat]) -> ModuleType:
    known = methods_for(kind)
    if method not in known:
        close = get_close_matches(method, known, n=1)
        raise ConfigError(
            f"unknown {kind.name} method `{method}`; expected one of {', '.join(known)}",
            hint=f"did you mean `{close[0]}`?" if close else None,
        )
    return import_module(f"{__name__}.{METHODS[method].modules[kind]}")
