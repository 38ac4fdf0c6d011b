"""The CPU target: dynamic shapes, and a QDQ form that ONNX Runtime fuses into integer kernels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.errors import UnsupportedError
from edgeq.targets.base import Lowered, LoweringInput, LoweringOptions, VariantSpec
from edgeq.types import Precision

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.quantize.plan import QuantizationPlan

MIN_ONNXRUNTIME = "1.20"


def lower_for_cpu(source: LoweringInput, precision: Precision) -> ir.Model:
    """The canonical graph in a precision, shapes left free."""
    from edgeq.graph.passes.fp16_storage import store_fp16

    match precision:
        case Precision.FP32:
            return source.canonical.model.clone()
        case Precision.FP16:
            return store_fp16(source.canonical.model)
        case Precision.INT8 if source.plan is not None:
            return _int8(source.graph(), source.plan)
        case _:
            raise UnsupportedError(f"the CPU lowering got precision {precision} without a plan for it")


def _int8(equalized: ir.Model, plan: QuantizationPlan) -> ir.Model:
    from edgeq.graph.passes.static_qdq import LinearQDQ, quantize_embeddings, quantize_linears

    linears = [
        LinearQDQ(item.name, item.input_range, item.bias_shift) for item in plan.linears if item.quantized
    ]
    model = quantize_linears(equalized, linears)
    return quantize_embeddings(model, [item.name for item in plan.embeddings if item.quantized])


def write_cpu_variant(source: LoweringInput, precision: Precision, path: Path) -> Lowered:
    """Lower, save, and check on the optimized graph that what was quantized runs in integers."""
    from edgeq.targets.kernels import optimized_kernels
    from edgeq.targets.onnx_file import save_onnx

    model = lower_for_cpu(source, precision)
    opset = model.opset_imports[""]
    save_onnx(model, path)
    kernels = optimized_kernels(path)
    planned = (
        sum(item.quantized for item in source.plan.linears)
        if source.plan and precision is Precision.INT8
        else 0
    )
    notes = ()
    if kernels.integer_matmuls < planned:
        notes = (
            f"{planned - kernels.integer_matmuls} of {planned} int8 layers did not fuse into integer kernels",
        )
    return Lowered(
        model=path,
        inputs=source.canonical.inputs,
        outputs=source.canonical.outputs,
        opset=opset,
        placement=kernels.to_json(),
        requirements={"onnxruntime": f">={MIN_ONNXRUNTIME}"},
        notes=notes,
    )


@dataclass(frozen=True, slots=True)
class CpuTarget:
    """ONNX Runtime on x86-64 and ARM64 desktops and servers."""

    name: str = "cpu"
    title: str = "ONNX Runtime on desktop and server CPUs, dynamic shapes"
    precisions: tuple[Precision, ...] = (Precision.INT8, Precision.FP16, Precision.FP32)

    def variants(self, precision: Precision) -> tuple[VariantSpec, ...]:
        """One variant."""
        from edgeq.runtime.host import host_architecture

        return (
            VariantSpec(
                f"cpu-{precision}",
                "cpu",
                precision,
                "onnxruntime",
                "CPUExecutionProvider",
                host_architecture(),
            ),
        )

    def lower(
        self, spec: VariantSpec, source: LoweringInput, options: LoweringOptions, folder: Path
    ) -> Lowered:
        """Write the variant."""
        return write_cpu_variant(source, spec.precision, folder / "model.onnx")


TARGET = CpuTarget()
