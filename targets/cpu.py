"""The CPU target: dynamic shapes, and linear layers written as ONNX Runtime's integer kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgeq.errors import UnsupportedError
from edgeq.graph.overflow import find_saturating
from edgeq.onnx_runtime import OptimizationLevel, ordered_options
from edgeq.quantize.formats import Palette
from edgeq.runtime.executors import CAN_SATURATE
from edgeq.runtime.host import host_architecture
from edgeq.targets.kernels import count_kernels
from edgeq.targets.onnx_session import OnnxSession
from edgeq.targets.target import Lowered, LoweringInput, LoweringOptions, Session, VariantSpec
from edgeq.types import ONNX_RUNTIME, Precision

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.quantize.plan import QuantizationPlan
    from edgeq.quantize.recipes import Recipe
    from edgeq.runtime.adapter import HasSignature

MIN_ONNXRUNTIME = "1.20"


MIN_ONNXRUNTIME_BLOCKS = "1.23"
"""First with 8-bit GatherBlockQuantized; 8-bit MatMulNBits kernels came with 1.22."""


def cpu_refusal(recipe: Recipe) -> str | None:
    """Why ONNX Runtime's CPU provider cannot honour a recipe; None where it can."""
    if any(isinstance(spec.storage, Palette) for spec in recipe.possible_specs()):
        return (
            f"ONNX has no palettized weights, which recipe `{recipe.name}` asks for; only Core ML takes them"
        )
    return None


def lower_for_cpu(source: LoweringInput) -> ir.Model:
    """The canonical graph as the plan says, shapes left free; `lowered_nodes` says what was written into it."""
    from edgeq.graph.passes.residual_sums import write_residual_sums
    from edgeq.graph.passes.sequence import edited

    return edited(source.graph(), *_precision_passes(source), write_residual_sums())


def _precision_passes(source: LoweringInput) -> tuple[ir.passes.PassBase, ...]:
    from edgeq.graph.passes.fp16_storage import store_fp16

    if source.plan is not None:
        return _quantizing_passes(source, source.plan)
    if source.precision is Precision.FP16:
        return (store_fp16(),)
    if source.precision is not Precision.FP32:
        raise UnsupportedError(f"the CPU lowering got precision {source.precision} without a plan for it")
    return ()


def _quantizing_passes(source: LoweringInput, plan: QuantizationPlan) -> tuple[ir.passes.PassBase, ...]:
    """Static int8, then tables as int8 rows, weight-only blocks, and float16 storage."""
    from edgeq.graph.passes.fp16_storage import store_fp16
    from edgeq.graph.passes.fuse_projections import fuse_projections
    from edgeq.graph.passes.integer_linears import fuse_integer_linears
    from edgeq.graph.passes.static_qdq import LinearQDQ, quantize_embeddings, quantize_linears
    from edgeq.quantize.streaming.weight_store import lower_weights

    linears = [
        LinearQDQ(item.name, item.input_range, item.bias_shift) for item in plan.linears if item.quantized
    ]
    in_blocks = {item.name for item in plan.weights}
    rows = [item.name for item in plan.embeddings if item.quantized and item.name not in in_blocks]
    return (
        quantize_linears(linears, source.static),
        fuse_integer_linears(),
        quantize_embeddings(rows),
        lower_weights(source.weights),
        fuse_projections(),
        store_fp16(plan.fp16),
    )


def write_cpu_variant(source: LoweringInput, path: Path, level: OptimizationLevel) -> Lowered:
    """Lower, save, read back, and check on the optimized graph that what was quantized runs in integers."""
    from edgeq.graph.passes.weight_only import lowered_nodes, verify_weight_only
    from edgeq.targets.onnx_file import save_onnx

    model = lower_for_cpu(source)
    opset, nodes = model.opset_imports[""], lowered_nodes(model)
    save_onnx(model, path)
    verify_weight_only(path, nodes)
    kernels, notes = count_kernels(path)
    planned = sum(item.quantized for item in source.plan.linears) if source.plan else 0
    if planned and not kernels.integer_matmuls:
        raise UnsupportedError(
            f"none of {planned} int8 layers would run as an integer kernel",
            hint="--precision fp32 or fp16 exports the model in float",
        )
    if kernels.integer_matmuls < planned:
        missing = planned - kernels.integer_matmuls
        notes = (*notes, f"{missing} of {planned} int8 layers do not run as integer kernels")
    return Lowered(
        model=path,
        inputs=source.canonical.inputs,
        outputs=source.canonical.outputs,
        opset=opset,
        placement=kernels.to_json() | {CAN_SATURATE: [layer.node for layer in find_saturating(path)]},
        requirements={
            "onnxruntime": f">={MIN_ONNXRUNTIME_BLOCKS if nodes else MIN_ONNXRUNTIME}",
            "session_options": ordered_options(level),
        },
        notes=notes,
    )


@dataclass(frozen=True, slots=True)
class CpuTarget:
    """ONNX Runtime on x86-64 and ARM64 desktops and servers."""

    name: str = "cpu"
    title: str = "ONNX Runtime on desktop and server CPUs, dynamic shapes"
    precisions: tuple[Precision, ...] = (Precision.INT8, Precision.INT4, Precision.FP16, Precision.FP32)
    own_runtimes: tuple[str, ...] = ()
    option_names: tuple[str, ...] = ()
    made_from: Literal["graph", "checkpoint"] = "graph"
    own_precisions: Mapping[str, str] = field(default_factory=dict)

    def variants(self, recipe: Recipe) -> tuple[VariantSpec, ...]:
        """One variant."""
        return (
            VariantSpec(
                f"cpu-{recipe.name}",
                "cpu",
                recipe.name,
                ONNX_RUNTIME,
                "CPUExecutionProvider",
                host_architecture(),
                refusal=cpu_refusal(recipe),
            ),
        )

    def check(self, recipe: Recipe, options: LoweringOptions) -> None:
        """Every length is taken; a static variant has the longest."""

    def lower(
        self, spec: VariantSpec, source: LoweringInput, options: LoweringOptions, folder: Path
    ) -> Lowered:
        """Write the variant."""
        return write_cpu_variant(source, folder / "model.onnx", spec.level)

    def open(self, spec: VariantSpec, model: Path, signature: HasSignature, *, pad_id: int = 0) -> Session:
        """ONNX Runtime's CPU provider."""
        return OnnxSession(spec, model, signature, pad_id=pad_id)


TARGET = CpuTarget()
