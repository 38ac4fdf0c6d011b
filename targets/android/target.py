"""Android: a CPU variant that most phones should run, and a one-partition NNAPI variant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgeq.quantize.formats import Blocks
from edgeq.targets.android.nnapi import write_nnapi_variant
from edgeq.targets.cpu import cpu_refusal, write_cpu_variant
from edgeq.targets.onnx_session import OnnxSession
from edgeq.targets.target import Lowered, LoweringInput, LoweringOptions, Session, VariantSpec
from edgeq.types import ONNX_RUNTIME, Precision

if TYPE_CHECKING:
    from edgeq.quantize.recipes import Recipe
    from edgeq.runtime.adapter import HasSignature

MIN_ANDROID_API = 24
"""The onnxruntime-android package's own minimum."""


def nnapi_refusal(recipe: Recipe) -> str | None:
    """Why NNAPI cannot honour a recipe; None where it can.

    Its quantized operators take int8 weights with one scale per tensor or channel and int8 activations; tables may
    be int8 rows.
    """
    if (reason := cpu_refusal(recipe)) is not None:
        return reason
    for spec in recipe.possible_specs():
        if isinstance(spec.storage, Blocks) and not spec.storage.is_row_int8:
            return (
                f"NNAPI has no {spec.bits}-bit weights in blocks with float activations, which recipe `{recipe.name}` "
                "asks for"
            )
    if isinstance(recipe.default.storage, Blocks):
        return f"NNAPI has no int8 weights with float activations, which recipe `{recipe.name}` asks for"
    return None


@dataclass(frozen=True, slots=True)
class AndroidTarget:
    """The onnxruntime-android package on ARM64 phones."""

    name: str = "android"
    title: str = "ONNX Runtime on Android: cpu (dynamic shapes) and nnapi (static shapes, one partition)"
    precisions: tuple[Precision, ...] = (Precision.INT8, Precision.INT4, Precision.FP16, Precision.FP32)
    own_runtimes: tuple[str, ...] = ()
    option_names: tuple[str, ...] = ()
    made_from: Literal["graph", "checkpoint"] = "graph"
    own_precisions: Mapping[str, str] = field(default_factory=dict)

    def variants(self, recipe: Recipe) -> tuple[VariantSpec, ...]:
        """The CPU variant first: NNAPI is deprecated since Android 15 and often slower."""
        name = recipe.name
        return (
            VariantSpec(
                f"cpu-{name}",
                "cpu",
                name,
                ONNX_RUNTIME,
                "CPUExecutionProvider",
                "arm64",
                refusal=cpu_refusal(recipe),
            ),
            VariantSpec(
                f"nnapi-{name}",
                "nnapi",
                name,
                ONNX_RUNTIME,
                "NnapiExecutionProvider",
                "arm64",
                level="ORT_ENABLE_BASIC",
                one_partition=True,
                refusal=nnapi_refusal(recipe),
            ),
        )

    def check(self, recipe: Recipe, options: LoweringOptions) -> None:
        """Every length is taken; a static variant has the longest."""

    def lower(
        self, spec: VariantSpec, source: LoweringInput, options: LoweringOptions, folder: Path
    ) -> Lowered:
        """Write one variant."""
        path = folder / "model.onnx"
        if spec.engine == "nnapi":
            return write_nnapi_variant(spec, source, options, path)
        lowered = write_cpu_variant(source, path, spec.level)
        phone = {"abi": ["arm64-v8a"], "min_android_api": MIN_ANDROID_API}
        return replace(lowered, requirements={**lowered.requirements, **phone})

    def open(self, spec: VariantSpec, model: Path, signature: HasSignature, *, pad_id: int = 0) -> Session:
        """ONNX Runtime's CPU provider."""
        return OnnxSession(spec, model, signature, pad_id=pad_id)


TARGET = AndroidTarget()
