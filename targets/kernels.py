"""What ONNX Runtime's CPU provider really runs: the fully optimized graph is written out and counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgeq.errors import ModelError

INTEGER_MATMULS = frozenset(
    {"MatMulIntegerToFloat", "QLinearMatMul", "QGemm", "MatMulInteger", "DynamicQuantizeMatMul", "QAttention"}
)
BLOCK_MATMULS = frozenset({"MatMulNBits"})
FLOAT_MATMULS = frozenset({"MatMul", "FusedMatMul", "Gemm", "FusedGemm"})


@dataclass(frozen=True, slots=True)
class KernelSummary:
    """Node counts of the optimized graph."""

    nodes: int
    integer_matmuls: int
    block_matmuls: int
    float_matmuls: int

    def to_json(self) -> dict[str, Any]:
        """For a manifest's `placement`."""
        return {
            "nodes": {"CPUExecutionProvider": self.nodes},
            "partitions": 1,
            "integer_matmuls": self.integer_matmuls,
            "block_matmuls": self.block_matmuls,
            "float_matmuls": self.float_matmuls,
        }


def optimized_kernels(model: Path) -> KernelSummary:
    """Optimize at ORT_ENABLE_ALL with the installed ONNX Runtime and count.

    Raises:
        ModelError: ONNX Runtime cannot load the model.
    """
    import onnx
    import onnxruntime as ort

    with TemporaryDirectory(prefix="edgeq-") as folder:
        optimized = Path(folder) / "optimized.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 4  # errors come as exceptions
        options.optimized_model_filepath = str(optimized)
        try:
            ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise ModelError(f"ONNX Runtime cannot load `{model.name}`: {error}") from error
        nodes = onnx.load(str(optimized), load_external_data=False).graph.node
    counts = Counter(node.op_type for node in nodes)
    return KernelSummary(
        nodes=len(nodes),
        integer_matmuls=sum(counts[op] for op in INTEGER_MATMULS),
        block_matmuls=sum(counts[op] for op in BLOCK_MATMULS),
        float_matmuls=sum(counts[op] for op in FLOAT_MATMULS),
    )
