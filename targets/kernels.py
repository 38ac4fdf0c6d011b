"""What ONNX Runtime's CPU provider really runs: the fully optimized graph is written out and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.errors import ModelError
from edgeq.onnx_runtime import session_options
from edgeq.scratch import scratch_folder

if TYPE_CHECKING:
    import onnx

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


HELD_BYTES = 800_000_000
"""A larger file is not loaded whole to be checked: ONNX Runtime packs codes, and folds float16 to twice its size."""


def is_held_whole(model: Path) -> bool:
    """Whether a file and its weights are loaded into one session while the bundle is made."""
    return sum(file.stat().st_size for file in model.parent.glob(f"{model.name}*")) <= HELD_BYTES


def count_kernels(model: Path) -> tuple[KernelSummary, tuple[str, ...]]:
    """Kernels of the optimized graph; of a large one as it is written, with a note that says so.

    Raises:
        ModelError: ONNX Runtime cannot load the model.
    """
    import onnx

    if is_held_whole(model):
        return optimized_kernels(model), ()
    graph = onnx.load(str(model), load_external_data=False).graph
    limit = f"{HELD_BYTES / 1e9:.1f} GB"
    return _summary(graph.node), (
        f"operators are counted as written, not optimized: the file is above {limit}",
    )


def optimized_kernels(model: Path) -> KernelSummary:
    """Optimize at ORT_ENABLE_ALL with the installed ONNX Runtime and count.

    Raises:
        ModelError: ONNX Runtime cannot load the model.
    """
    import onnx
    import onnxruntime as ort

    with scratch_folder("kernels") as folder:
        optimized = folder / "optimized.onnx"
        # What an app's session runs: its own kernels.
        options = session_options(exact=False)
        options.optimized_model_filepath = str(optimized)
        try:
            ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise ModelError(f"ONNX Runtime cannot load `{model.name}`: {error}") from error
        nodes = onnx.load(str(optimized), load_external_data=False).graph.node
    return _summary(nodes)


def _summary(nodes: Collection[onnx.NodeProto]) -> KernelSummary:
    counts = Counter(node.op_type for node in nodes)
    return KernelSummary(
        nodes=len(nodes),
        integer_matmuls=sum(counts[op] for op in INTEGER_MATMULS),
        block_matmuls=sum(counts[op] for op in BLOCK_MATMULS),
        float_matmuls=sum(counts[op] for op in FLOAT_MATMULS),
    )
