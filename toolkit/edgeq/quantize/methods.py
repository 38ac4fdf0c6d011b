"""The methods that choose quantized weights: what each makes, what it looks at, and where it is.

A new method is a module of `quantize.weight_only` and a line in the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from edgeq.quantize.formats import Blocks, Palette, WeightFormat


class Needs(IntEnum):
    """What a method looks at of a layer's inputs X; each includes the ones before it."""

    NOTHING = 0
    MEAN_SQUARE = 1
    """E[x^2] per channel."""
    GRAM = 2
    """X^T X."""


@dataclass(frozen=True, slots=True)
class Method:
    """Facts of one method.

    Attributes:
        modules: of `quantize.weight_only`, by the format it makes; each has a `quantize`.
        needs: of the layer's inputs.
        in_turn: a layer sees what those quantized before it leave.
        by_rows: each block is decided by itself, so that rows can be quantized apart: the module has a `fit`.
        scales_inputs: the layer's input must be divided, which a table that is looked up has no place for.
    """

    modules: Mapping[type[WeightFormat], str]
    needs: Needs = Needs.NOTHING
    in_turn: bool = False
    by_rows: bool = False
    scales_inputs: bool = False


METHODS: Mapping[str, Method] = {
    "rtn": Method({Blocks: "rtn"}, by_rows=True),
    "scale_search": Method({Blocks: "scale_search"}, Needs.MEAN_SQUARE, by_rows=True),
    "hqq": Method({Blocks: "hqq"}, by_rows=True),
    "kmeans": Method({Palette: "palette"}, Needs.MEAN_SQUARE),
    "gptq": Method({Blocks: "gptq", Palette: "palette_gptq"}, Needs.GRAM, in_turn=True),
    "awq": Method({Blocks: "awq"}, Needs.GRAM, scales_inputs=True),
}
"""By the name that recipes have."""


def methods_for(kind: type[WeightFormat]) -> tuple[str, ...]:
    """Names of the methods that make a format; none where nothing is chosen."""
    return tuple(name for name, method in METHODS.items() if kind in method.modules)
