"""Quantization of checkpoints larger than memory: tensors are read, quantized and written a piece at a time.

`Checkpoint.open(folder)[name].reference()` makes an initializer of a graph refer to a tensor of a safetensors
file; `stream_weights(graph, specs, path)` writes the graph with quantized weights. docs/streaming.md explains.
"""

from __future__ import annotations

from edgeq.quantize.streaming.checkpoint import Checkpoint, TensorSource
from edgeq.quantize.streaming.external_data import ExternalDataWriter
from edgeq.quantize.streaming.rewrite import StreamedModel, stream_weights
from edgeq.quantize.streaming.row_quantizer import ROW_METHODS, quantized_rows, without_calibration
from edgeq.quantize.streaming.stored_tensor import StoredTensor

__all__ = [
    "ROW_METHODS",
    "Checkpoint",
    "ExternalDataWriter",
    "StoredTensor",
    "StreamedModel",
    "TensorSource",
    "quantized_rows",
    "stream_weights",
    "without_calibration",
]
