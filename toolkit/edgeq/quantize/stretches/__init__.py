"""Graphs run a stretch of nodes at a time, so that only a stretch's weights are in memory.

`Walk` cuts a graph and makes sessions; `ValueStore` keeps what crosses from one stretch into the next; `run_sequences`
runs a whole decoder that way.
"""

from __future__ import annotations

from edgeq.quantize.stretches.sequences import run_sequences
from edgeq.quantize.stretches.values import ValueStore
from edgeq.quantize.stretches.walk import STRETCH_BYTES, Walk
from edgeq.quantize.stretches.weights import (
    HeldWeight,
    QuantizedSource,
    StreamedWeight,
    Weight,
    weight_of_tensor,
)

__all__ = [
    "STRETCH_BYTES",
    "HeldWeight",
    "QuantizedSource",
    "StreamedWeight",
    "ValueStore",
    "Walk",
    "Weight",
    "run_sequences",
    "weight_of_tensor",
]
