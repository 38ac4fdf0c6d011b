"""The CPU target: dynamic shapes, and linear layers written as ONNX Runtime's integer kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgeq.errors import UnsupportedError
from edgeq.onnx_runtime import OptimizationLevel, ordered_options
from edgeq.quantize.formats import Palette
from edgeq.runtime.executors import CAN_SATURATE
from edgeq.targets.base import Lowered, LoweringInput, LoweringOptions, Session, VariantSpec
from edgeq.types import ONNX_RUNTIME, Precision

if TYPE_CHECKING:
    from edgeq.graph.passes.weight_only import Lowering
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


def lower_for_cpu(source: LoweringInput) -> Lowering:
    """The canonical graph as the plan says, shapes left free."""
    from edgeq.graph.passes.residual_sums import write_residual_sums

    lowering = _in_precision(source)
    return replace(lowering, model=write_residual_sums(lowering.model))


def _in_precision(source: LoweringInput) -> Lowering:
    from edgeq.graph.passes.fp16_storage import store_fp16
    from edgeq.graph.passes.weight_only import Lowering

    if source.plan is not None:
        return _quantized(source, source.plan)
    if source.precision is Precision.FP16:
        return Lowering(store_fp16(source.canonical.model), ())
    if source.precision is not Precision.FP32:
        raise UnsupportedError(f"the CPU lowering got precision {source.precision} without a plan for it")
    return Lowering(source.canonical.model, ())


def _quantized(source: LoweringInput, plan: QuantizationPlan) -> Lowering:
    """Static int8, then tables as int8 rows, weight-only blocks, and float16 storage."""
    from edgeq.graph.passes.fp16_storage import store_fp16
    from edgeq.graph.passes.fuse_projections import fuse_projections
    from edgeq.graph.passes.integer_linears import fuse_integer_linears
    from edgeq.graph.passes.static_qdq import LinearQDQ, quantize_embeddings, quantize_linears
    from edgeq.quantize.streaming.weight_store import lower_weights

    linears = [
        LinearQDQ(item.name, item.input_range, item.bias_shift) for item in plan.linears if item.quantized
    ]
    model = fuse_integer_linears(quantize_linears(source.graph(), linears, source.static))
    in_blocks = {item.name for item in plan.weights}
    rows = [item.name for item in plan.embeddings if item.quantized and item.name not in in_blocks]
    lowering = fuse_projections(lower_weights(quantize_embeddings(model, rows), source.weights))
    return replace(lowering, model=store_fp16(lowering.model, plan.fp16))


def write_cpu_variant(source: LoweringInput, path: Path, level: OptimizationLevel) -> Lowered:
    """Lower, save, read back, and check on the optimized graph that what was quantized runs in integers."""
    from edgeq.graph.overflow import find_saturating
    from edgeq.graph.passes.weight_only import verify_weight_only
    from edgeq.targets.kernels import count_kernels
    from edgeq.targets.onnx_file import save_onnx

    lowering = lower_for_cpu(source)
    opset = lowering.model.opset_imports[""]
    save_onnx(lowering.model, path)
    verify_weight_only(path, lowering.nodes)
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
            "onnxruntime": f">={MIN_ONNXRUNTIME_BLOCKS if lowering.nodes else MIN_ONNXRUNTIME}",
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
        from edgeq.runtime.host import host_architecture

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
        from edgeq.targets.onnx_session import OnnxSession

        return OnnxSession(spec, model, signature, pad_id=pad_id)


TARGET = CpuTarget()
