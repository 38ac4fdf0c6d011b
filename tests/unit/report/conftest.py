"""A manifest with everything a report shows, and one whose every free word is hostile."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeq.bundle.manifest import (
    Calibration,
    ExcludedNode,
    Gate,
    GoldenEntry,
    Manifest,
    Metric,
    PostprocessKind,
    PostprocessStep,
    PreprocessKind,
    PreprocessStep,
    ProcessorInfo,
    Quantization,
    Status,
    TextProcessorInfo,
    Variant,
)
from edgeq.quantize.coverage import Coverage
from edgeq.quantize.plan import EmbeddingDecision, Equalization, LinearDecision, QuantizationPlan
from edgeq.quantize.static_int8 import Trial
from edgeq.types import Role, SourceFile, SourceInfo, Task, TensorSpec, Verification

HOSTILE = (
    "</td></svg><script>alert('1')</script><img src=x onerror=\"alert(2)\">|`*_[x](javascript:3)\n# &amp; x"
)
ENVIRONMENT = "onnxruntime 1.32.0, CPUExecutionProvider, x86-64, test CPU"
METRICS = {
    "cosine_mean": 0.998343,
    "cosine_p01": 0.99671,
    "cosine_min": 0.996642,
    "sqnr_db": 24.7956,
    "max_abs": 0.0225,
}


def _inputs(*, static: bool) -> tuple[TensorSpec, ...]:
    shape = (1, 128) if static else ("batch", "sequence")
    return (
        TensorSpec("input_ids", "int32" if static else "int64", shape, Role.TOKEN_IDS),
        TensorSpec("attention_mask", "float32" if static else "int64", shape, Role.ATTENTION_MASK),
    )


def _variants() -> tuple[Variant, ...]:
    output = (TensorSpec("sentence_embedding", "float32", ("batch", 384), Role.SENTENCE_EMBEDDING),)
    cpu = Variant(
        "cpu-int8", {"model": "model/cpu-int8/model.onnx"}, "onnxruntime", "CPUExecutionProvider", "int8",
        _inputs(static=False), output, 23069823, 20,
        {"onnxruntime": ">=1.20", "abi": ["arm64-v8a"], "min_android_api": 24, "min_ram_mb": 64},
        {"nodes": {"CPUExecutionProvider": 213}, "partitions": 1, "integer_matmuls": 36, "float_matmuls": 12},
    )  # fmt: skip
    nnapi = replace(
        cpu,
        id="nnapi-int8",
        models={"model": "model/nnapi-int8/model.onnx"},
        execution_provider="NnapiExecutionProvider",
        inputs=_inputs(static=True),
        requirements={
            "onnxruntime": ">=1.16",
            "min_android_api": 29,
            "session_options": {"graph_optimization_level": "ORT_ENABLE_BASIC"},
            "nnapi_flags": [],
        },
        placement={
            "nodes": {"NnapiExecutionProvider": 600, "CPUExecutionProvider": 2},
            "partitions": 2,
            "as_shipped": {"nodes": 576, "taken": 576, "partitions": 1},
            "reasons": {"Erf has no builder": 2},
            "level": "predicted",
        },
    )
    return (cpu, nnapi)


def _metrics(variant: str) -> list[Metric]:
    level = Verification.EXECUTED_OTHER_ARCH
    return [
        Metric(variant, name, value, 128, ENVIRONMENT, level, "sentence_embedding")
        for name, value in METRICS.items()
    ]


@pytest.fixture
def manifest() -> Manifest:
    gate = Gate(
        "cpu-int8", "sentence_embedding", "cosine_mean", ">=", 0.97, "default floor for int8", 0.998343, True
    )
    return Manifest(
        name="all-MiniLM-L6-v2",
        target="android",
        source=SourceInfo(
            "sentence-transformers/all-MiniLM-L6-v2", "c9745ed1d9f2", (SourceFile("config.json", "9" * 64),),
            "apache-2.0", Task.SENTENCE_EMBEDDING, "bert", 22713216,
        ),
        variants=_variants(),
        created_by={"edgeq": "0.1.0", "onnxruntime": "1.32.0"},
        quantization=Quantization(
            "int8", "recipe.yaml", Calibration("texts.txt", "f" * 64, 256, 0), 8.13,
            (ExcludedNode("encoder.layer.5.output.dense", "excluded by the recipe"),),
        ),
        processor=ProcessorInfo(TextProcessorInfo("tokenizer", 256, 0)),
        preprocess=(PreprocessStep(PreprocessKind.TOKENIZE, ("input_ids", "attention_mask")),),
        golden=(GoldenEntry("case-00", "golden/case-00.npz"),),
        gates=(gate,),
        metrics=(*_metrics("cpu-int8"), *_metrics("nnapi-int8")),
    )  # fmt: skip


@pytest.fixture
def hostile(manifest: Manifest) -> Manifest:
    """Every free word is an attack; ids and paths too, although a reader would refuse some of them."""
    spec = TensorSpec(HOSTILE, "float32", (HOSTILE, 3), Role.OTHER)
    variant = replace(
        manifest.variants[1], id=HOSTILE, models={"model": HOSTILE}, runtime=HOSTILE, precision=HOSTILE,
        inputs=(spec,), outputs=(spec,),
        requirements={HOSTILE: HOSTILE, "nnapi_flags": [HOSTILE], "min_android_api": HOSTILE, "abi": [HOSTILE]},
        placement={"nodes": {HOSTILE: 1}, "reasons": {HOSTILE: 1}, "notes": [HOSTILE],
                   "landmines": [{HOSTILE: HOSTILE}]},
    )  # fmt: skip
    source = replace(
        manifest.source, model=HOSTILE, revision=HOSTILE, license=HOSTILE, architecture=HOSTILE, labels=(HOSTILE,),
        files=(SourceFile(HOSTILE, HOSTILE),),
    )  # fmt: skip
    assert manifest.quantization is not None
    calibration = Calibration(HOSTILE, HOSTILE, 1, 0)
    quantization = Quantization(HOSTILE, HOSTILE, calibration, 4.5, (ExcludedNode(HOSTILE, HOSTILE),))
    return replace(
        manifest, name=HOSTILE, target=HOSTILE, source=source, variants=(variant,), created_by={HOSTILE: HOSTILE},
        status=Status.FAILED, quantization=quantization,
        processor=ProcessorInfo(TextProcessorInfo(HOSTILE, 8, 0, HOSTILE)),
        preprocess=(PreprocessStep(PreprocessKind.TOKENIZE, (HOSTILE,)),),
        postprocess=(PostprocessStep(PostprocessKind.SOFTMAX, (HOSTILE,)),),
        gates=(Gate(HOSTILE, HOSTILE, "cosine_mean", ">=", 0.5, HOSTILE, 0.1, False),),
        metrics=(Metric(HOSTILE, "cosine_mean", 0.1, 1, HOSTILE, Verification.SIMULATED, HOSTILE),
                 Metric(HOSTILE, HOSTILE, 0.1, 1, HOSTILE, Verification.SIMULATED, HOSTILE)),
    )  # fmt: skip


def make_plan(name: str = "encoder.layer.0.query") -> QuantizationPlan:
    ones = np.ones(4, np.float32)
    return QuantizationPlan(
        (Equalization(f"{name}/in", (name,), np.array([0.5, 1, 1, 4], np.float32), None),),
        (
            LinearDecision(name, True, "quantized", (-1.5, 3.0), -2 * ones, 2 * ones, 0.1 * ones),
            LinearDecision(f"{name}.kept", False, "excluded by the recipe", (0.0, 0.0), 0 * ones, 0 * ones),
        ),
        (EmbeddingDecision(f"{name}.embedding", True, "quantized"),),
        {"method": "static-int8", "alpha": 0.75, "range_method": "min-max", "bias_correction": False},
    )


@pytest.fixture
def plan() -> QuantizationPlan:
    return make_plan()


@pytest.fixture
def hostile_plan() -> QuantizationPlan:
    return make_plan(HOSTILE)


@pytest.fixture
def trials() -> tuple[Trial, ...]:
    return (
        Trial("alpha 0.5", 0.21),
        Trial("alpha 0.75", 0.12),
        Trial("min-max ranges", 0.12),
        Trial("mse ranges", 0.14),
        Trial("no bias correction", 0.12),
        Trial("bias correction", 0.13),
    )


@pytest.fixture
def coverage() -> Coverage:
    return Coverage(256, 5, 11, 24, 300, 256, 0.0078125, {"encoder.layer.0.query/in": 0.00012, "other": 0.0})
