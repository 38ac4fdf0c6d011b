"""Saving a lowered graph: checked, stripped of exporter traces, the same bytes every time."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from edgeq.graph.streamed_tensor import StreamedTensor
from edgeq.quantize.streaming.save import save_beside
from edgeq.types import Dim, TensorSpec

EXTERNAL_DATA_BYTES = 1_900_000_000
"""Above this, weights move to a file beside the graph: protobuf ends at 2 GiB."""

STREAMED_BYTES = 64_000_000
"""Weights by reference move above this already: they are copied a piece at a time, and serialized nowhere."""


def save_onnx(model: ir.Model, path: Path) -> None:
    """Write a model, weights inside while protobuf can hold them."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedOpsetsPass

    path.parent.mkdir(parents=True, exist_ok=True)
    RemoveUnusedOpsetsPass()(model)
    ClearMetadataAndDocStringPass()(model)
    model.producer_name, model.producer_version = "edgeq", None
    tensors = [value.const_value for value in model.graph.initializers.values() if value.const_value]
    size = sum(tensor.nbytes for tensor in tensors)
    by_reference = sum(tensor.nbytes for tensor in tensors if isinstance(tensor, StreamedTensor))
    if size > EXTERNAL_DATA_BYTES or by_reference > STREAMED_BYTES:
        save_beside(model, path)
    else:
        ir.save(model, path)


def output_specs(model: ir.Model, canonical: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """The outputs with the shapes the lowered graph gives them."""
    shapes = {value.name: value.shape for value in model.graph.outputs}
    return tuple(
        TensorSpec(spec.name, spec.dtype, _dims(shapes[spec.name]) or spec.shape, spec.role)
        for spec in canonical
    )


def _dims(shape: ir.Shape | None) -> tuple[Dim, ...]:
    return tuple(dim if isinstance(dim, int) else str(dim) for dim in shape) if shape is not None else ()
