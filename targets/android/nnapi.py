"""The NNAPI variant: static shapes, opset 17, one partition."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.errors import UnsupportedError
from edgeq.graph.overflow import find_saturating
from edgeq.onnx_runtime import ordered_options
from edgeq.runtime.executors import CAN_SATURATE
from edgeq.targets.placement.predict import predict
from edgeq.targets.target import Lowered, LoweringInput, LoweringOptions, VariantSpec
from edgeq.types import Precision, TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.quantize.plan import QuantizationPlan
    from edgeq.targets.placement.report import PlacementReport

NNAPI_OPSET = 17
"""Older Android packages give the NNAPI provider no nodes above the opset their layout optimizer knows."""
IR_VERSION = 8
MIN_ONNXRUNTIME = "1.16"


def lower_for_nnapi(
    source: LoweringInput, precision: Precision, seq_len: int
) -> tuple[ir.Model, tuple[TensorSpec, ...]]:
    """The graph and its inputs."""
    from edgeq.graph.passes.sequence import edited
    from edgeq.targets.android.mobile_inputs import static_inputs

    model = edited(source.graph(), *nnapi_passes(source, precision, seq_len))
    return model, static_inputs(model, source.canonical.inputs)


def nnapi_passes(source: LoweringInput, precision: Precision, seq_len: int) -> tuple[ir.passes.PassBase, ...]:
    """What makes a canonical graph one that NNAPI takes whole, in order."""
    from edgeq.graph.passes.fp16_storage import store_fp16
    from edgeq.graph.passes.static_shapes import fix_dimensions
    from edgeq.targets.android.flat_trunk import flatten_trunk
    from edgeq.targets.android.mobile_inputs import retype_inputs
    from edgeq.targets.android.nnapi_ops import rewrite_operators
    from edgeq.targets.android.scalars import separate_scalars
    from edgeq.targets.android.versions import declare_versions

    return (
        fix_dimensions(source.canonical.sizes(seq_len)),
        retype_inputs(source.canonical.inputs),
        flatten_trunk(),
        rewrite_operators(),
        *(_quantizing_passes(source.plan) if precision is Precision.INT8 else ()),
        *((store_fp16(),) if precision is Precision.FP16 else ()),
        declare_versions(NNAPI_OPSET, IR_VERSION),
        separate_scalars(),
    )


def _quantizing_passes(plan: QuantizationPlan | None) -> tuple[ir.passes.PassBase, ...]:
    from edgeq.targets.android.nnapi_qdq import GemmQDQ, quantize_gemms, quantize_tables

    if plan is None:
        raise UnsupportedError("int8 for NNAPI needs a quantization plan")
    gemms = [
        GemmQDQ(item.name, item.input_range, item.output_low, item.output_high, item.bias_shift)
        for item in plan.linears
        if item.quantized
    ]
    return quantize_gemms(gemms), quantize_tables([item.name for item in plan.embeddings if item.quantized])


def write_nnapi_variant(
    spec: VariantSpec, source: LoweringInput, options: LoweringOptions, path: Path
) -> Lowered:
    """Lower, save and predict the placement."""
    from edgeq.targets.onnx_file import output_specs, save_onnx

    model, inputs = lower_for_nnapi(source, source.precision, options.seq_len)
    outputs = output_specs(model, source.canonical.outputs)
    save_onnx(model, path)
    report = predict(path, target="android")
    _require_one_partition(report)
    return Lowered(
        model=path,
        inputs=inputs,
        outputs=outputs,
        opset=NNAPI_OPSET,
        placement=_placement_json(report) | {CAN_SATURATE: [layer.node for layer in find_saturating(path)]},
        requirements={
            "onnxruntime": f">={MIN_ONNXRUNTIME}",
            "abi": ["arm64-v8a"],
            "min_android_api": report.as_shipped.min_android_api or 29,
            "session_options": ordered_options(spec.level),
            "nnapi_flags": ["USE_FP16"] if source.precision is Precision.FP16 else [],
        },
    )


def _placement_json(report: PlacementReport) -> dict[str, object]:
    # What an app gets by default: the graph after ONNX Runtime's own level-1 pass.
    found = report.optimized or report.as_shipped
    return {
        "nodes": {"NnapiExecutionProvider": found.taken, "CPUExecutionProvider": found.nodes - found.taken},
        "partitions": found.partitions,
        "full": found.is_full,
        "as_shipped": {
            "nodes": report.as_shipped.nodes,
            "taken": report.as_shipped.taken,
            "partitions": report.as_shipped.partitions,
        },
        "reasons": found.reasons(),
        "landmines": [landmine.to_json() for landmine in found.landmines],
        "level": "predicted",
    }


def _require_one_partition(report: PlacementReport) -> None:
    """A bundle never ships a variant that NNAPI would cut into pieces.

    Raises:
        UnsupportedError: how many nodes and partitions it would be, and why.
    """
    found = report.optimized or report.as_shipped
    if found.is_full:
        return
    reasons = "; ".join(f"{reason} ({count}x)" for reason, count in list(found.reasons().items())[:3])
    mines = "; ".join(f"{landmine.code}: {landmine.problem}" for landmine in found.landmines[:3])
    raise UnsupportedError(
        f"NNAPI would take {found.taken} of {found.nodes} nodes in {found.partitions} partitions, not all in one: "
        f"{'; '.join(part for part in (reasons, mines) if part)}",
        hint="--variants cpu exports without the nnapi variant",
    )
