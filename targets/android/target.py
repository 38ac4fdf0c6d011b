"""Android: a CPU variant that most phones should run, and a one-partition NNAPI variant."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edgeq.targets.android.nnapi import write_nnapi_variant
from edgeq.targets.base import Lowered, LoweringInput, LoweringOptions, VariantSpec
from edgeq.targets.cpu import write_cpu_variant
from edgeq.types import Precision

MIN_ANDROID_API = 24
"""The onnxruntime-android package's own minimum."""


@dataclass(frozen=True, slots=True)
class AndroidTarget:
    """The onnxruntime-android package on ARM64 phones."""

    name: str = "android"
    title: str = "ONNX Runtime on Android: cpu (dynamic shapes) and nnapi (static shapes, one partition)"
    precisions: tuple[Precision, ...] = (Precision.INT8, Precision.FP16, Precision.FP32)

    def variants(self, precision: Precision) -> tuple[VariantSpec, ...]:
        """The CPU variant first: NNAPI is deprecated since Android 15 and often slower."""
        return (
            VariantSpec(f"cpu-{precision}", "cpu", precision, "onnxruntime", "CPUExecutionProvider", "arm64"),
            VariantSpec(
                f"nnapi-{precision}",
                "nnapi",
                precision,
                "onnxruntime",
                "NnapiExecutionProvider",
                "arm64",
                True,
            ),
        )

    def lower(
        self, spec: VariantSpec, source: LoweringInput, options: LoweringOptions, folder: Path
    ) -> Lowered:
        """Write one variant."""
        path = folder / "model.onnx"
        if spec.engine == "nnapi":
            return write_nnapi_variant(source, spec.precision, options, path)
        lowered = write_cpu_variant(source, spec.precision, path)
        phone = {"abi": ["arm64-v8a"], "min_android_api": MIN_ANDROID_API}
        return replace(lowered, requirements={**lowered.requirements, **phone})


TARGET = AndroidTarget()
