"""Checkpoints larger than memory: tensors are read, quantized and written a piece at a time.

`Checkpoint.open(folder)[name].reference()` makes an initializer of a graph refer to a tensor of a safetensors
file. docs/streaming.md explains.
"""

from __future__ import annotations

from edgeq.quantize.streaming.checkpoint import Checkpoint
from edgeq.quantize.streaming.external_data import ExternalDataWriter
from edgeq.quantize.streaming.stored_tensor import StoredTensor

__all__ = ["Checkpoint", "ExternalDataWriter", "StoredTensor"]
