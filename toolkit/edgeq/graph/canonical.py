"""The canonical graph: one ONNX graph per model, in clean high-level operators, whatever the targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeq.types import Task, TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir

CANONICAL_OPSET = 20
"""First opset with `Gelu`; LayerNormalization came with 17."""

BATCH = "batch"
SEQUENCE = "sequence"


@dataclass(frozen=True, slots=True)
class CanonicalModel:
    """One model as an ONNX graph with named inputs, roles and axes.

    Operators are the high-level ones (LayerNormalization, Gelu, MatMul, Softmax, Gather); weights are
    initializers in float32, `[in, out]` for MatMul; the attention mask enters as an additive float term
    computed from `attention_mask` by `(1 - mask) * -10000` style arithmetic, never by Where or Equal.

    Attributes:
        model: the graph. Passes copy it before they edit.
        inputs: free dimensions are named `batch` and `sequence`.
        outputs: the same.
        task: what the outputs are.
        architecture: Hugging Face `model_type`.
        max_length: longest sequence in tokens.
    """

    model: ir.Model
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    task: Task
    architecture: str
    max_length: int
