"""Weights stored as float16, computed in float32: half the file, and the Casts are folded when a session loads it."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from edgeq.errors import UnsupportedError
from edgeq.graph.edit import Editor
from edgeq.graph.passes.in_place import in_place
from edgeq.graph.streamed_tensor import StreamedTensor
from edgeq.numerics import FP16_MAX
from edgeq.types import Array

MIN_ELEMENTS = 1024
"""Smaller tensors (biases, normalization) stay in float32: they cost nothing and matter most."""


@in_place
def store_fp16(model: ir.Model, only: Collection[str] | None = None) -> bool:
    """Store large float32 initializers (or `only` those named) as float16 behind a Cast.

    Raises:
        UnsupportedError: a weight does not fit float16.
    """
    editor = Editor(model)
    is_changed = False
    for value in list(model.graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < MIN_ELEMENTS:
            continue
        if only is not None and value.name not in only:
            continue
        readers = value.consumers()
        half = editor.constant(_in_half(tensor), f"{value.name}.fp16")
        cast = editor.op(
            "Cast",
            [half],
            f"{value.name}.fp32",
            before=readers[0],
            attributes={"to": ir.DataType.FLOAT},
            shape=value.shape,
        )
        value.replace_all_uses_with(cast)
        is_changed = True
    editor.finish()
    return is_changed


def _in_half(tensor: ir.TensorProtocol) -> Array | StreamedTensor:
    """The values as float16; a streamed tensor stays one."""
    if isinstance(tensor, StreamedTensor):
        return tensor.as_float16()
    data = tensor.numpy()
    largest = float(np.abs(data).max())
    if largest > FP16_MAX:
        raise UnsupportedError(
            f"`{tensor.name}` holds {largest:.4g}, beyond float16's {FP16_MAX:.0f}",
            hint="use --precision fp32",
        )
    return data.astype(np.float16)
