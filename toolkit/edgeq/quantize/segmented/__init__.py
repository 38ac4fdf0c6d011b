"""Graphs run a segment of nodes at a time, so that only a segment's weights are in memory.

`Walk` cuts a graph and makes sessions; `ValueStore` keeps what crosses from one segment into the next; `run_sequences`
runs a whole decoder that way.
"""

from __future__ import annotations

from edgeq.quantize.segmented.sequences import run_sequences
from edgeq.quantize.segmented.values import ValueStore
from edgeq.quantize.segmented.walk import SEGMENT_BYTES, Walk
from edgeq.quantize.segmented.weights import (
    HeldWeight,
    QuantizedSource,
    StreamedWeight,
    Weight,
    weight_of_tensor,
)

__all__ = [
    "SEGMENT_BYTES",
    "HeldWeight",
    "QuantizedSource",
    "StreamedWeight",
    "ValueStore",
    "Walk",
    "Weight",
    "run_sequences",
    "weight_of_tensor",
]
