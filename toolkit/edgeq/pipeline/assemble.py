"""From measured variants to a bundle on disk."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq import __version__
from edgeq.bundle.golden import write_golden
from edgeq.bundle.language_golden import read_language_golden
from edgeq.bundle.manifest import (
    Calibration,
    ExcludedNode,
    Gate,
    Manifest,
    PreprocessKind,
    PreprocessStep,
    Quantization,
    Status,
    TokenizerInfo,
    Variant,
)
from edgeq.files import atomic_write_text
from edgeq.pipeline.kernel_noise import Noise, case_tolerances
from edgeq.pipeline.measure import Measured, metrics_of
from edgeq.pipeline.sensitivity import FILE_NAME, to_document
from edgeq.report.examples import Recorded
from edgeq.report.html import write_report
from edgeq.report.model_card import write_model_card

if TYPE_CHECKING:
    from edgeq.bundle.golden import GoldenCase
    from edgeq.bundle.reader import Bundle
    from edgeq.bundle.writer import BundleWriter
    from edgeq.exporters.exported_model import ExportedModel, ModelFacts
    from edgeq.quantize.coverage import Coverage
    from edgeq.quantize.plan import QuantizationPlan
    from edgeq.quantize.recipes import Recipe
    from edgeq.quantize.sensitivity import LayerEffect
    from edgeq.quantize.static_int8 import Trial
    from edgeq.runtime.text import TextPreprocessor
    from edgeq.targets.base import Lowered, VariantSpec
    from edgeq.tasks import Head

TOOLS = ("torch", "transformers", "onnx", "onnx-ir", "onnxruntime", "coremltools", "numpy")
RAM_STEP_MB = 32
"""Memory is rounded up to this, so that noise of a megabyte does not change a bundle's bytes."""


@dataclass(frozen=True, slots=True)
class BundleParts:
    """What goes into one bundle.

    Attributes:
        written: spec and result of every variant, most preferred first.
        noise: kernel noise of every variant by output, which golden cases tolerate.
        recipe: the export's settings, re-runnable.
        calibration: where activation ranges come from; None for floating point.
        trials: settings the search tried, for the report, as are the rest.
        coverage: of the calibration texts.
        fp32_bytes: size of the float32 graph.
        effects: of each quantized layer alone, for `edgeq explain`.
    """

    name: str
    target: str
    exported: ExportedModel
    head: Head
    written: Mapping[str, tuple[VariantSpec, Lowered]]
    measured: Mapping[str, Measured]
    golden: Sequence[GoldenCase]
    noise: Mapping[str, Mapping[str, Noise]]
    gates: Sequence[Gate]
    recipe: Recipe
    precision: str
    plan: QuantizationPlan | None = None
    calibration: Calibration | None = None
    trials: Sequence[Trial] = ()
    coverage: Coverage | None = None
    fp32_bytes: int | None = None
    effects: Sequence[LayerEffect] = ()


def write_bundle(writer: BundleWriter, parts: BundleParts) -> Bundle:
    """Write everything beside the model files, and commit."""
    exported = parts.exported
    exported.preprocessor.save(writer.path("tokenizer/tokenizer.json").parent, limits=True)
    tolerances = {case.id: case_tolerances(case, parts.noise) for case in parts.golden}
    entries = write_golden(writer.folder, parts.golden, tolerances)
    atomic_write_text(writer.path("recipe.yaml"), parts.recipe.to_yaml())
    if parts.plan is not None:
        atomic_write_text(writer.path("plan.json"), json.dumps(parts.plan.to_json(), indent=1) + "\n")
    if parts.effects:
        atomic_write_text(writer.path(FILE_NAME), json.dumps(to_document(parts.effects), indent=1) + "\n")
    manifest = Manifest(
        name=parts.name,
        target=parts.target,
        source=exported.source,
        variants=tuple(_variant(parts, variant, writer) for variant in parts.written),
        created_by=tool_versions(),
        status=status_of(parts.gates),
        quantization=_quantization(parts, writer),
        tokenizer=tokenizer_info(exported.preprocessor),
        preprocess=(PreprocessStep(PreprocessKind.TOKENIZE, exported.preprocessor.input_names),),
        postprocess=parts.head.entry.postprocess(parts.head.outputs),
        golden=entries,
        gates=tuple(parts.gates),
        metrics=tuple(metrics_of(parts.measured, environment())),
    )
    write_model_card(writer.folder, manifest)
    write_report(
        writer.folder,
        manifest,
        parts.plan,
        parts.trials,
        parts.coverage,
        fp32_bytes=parts.fp32_bytes,
        cosines={name: values.cosines for name, values in parts.measured.items()},
        recorded=Recorded(parts.golden, exported.preprocessor),
    )
    return writer.commit(manifest)


def carry_legal_texts(writer: BundleWriter, facts: ModelFacts) -> None:
    """Licence, notices and terms of use of the source, which hold for the bundle too.

    A GGUF file names its licence inside; what lies beside it in a folder of downloads belongs to something else.
    """
    from edgeq.exporters.provenance import legal_texts

    if facts.folder.is_dir():
        for name, text in legal_texts(facts.folder).items():
            atomic_write_text(writer.path(name), text)


def write_pages(
    writer: BundleWriter,
    manifest: Manifest,
    facts: ModelFacts,
    preprocessor: TextPreprocessor,
    plan: QuantizationPlan | None = None,
) -> None:
    """Card, report and legal texts of a language model, after everything that they tell of is recorded."""
    language = read_language_golden(writer.folder)
    recorded = Recorded((), preprocessor, None if language is None else language.greedy)
    carry_legal_texts(writer, facts)
    write_model_card(writer.folder, manifest)
    write_report(writer.folder, manifest, plan, recorded=recorded)


def tool_versions() -> dict[str, str]:
    """Versions of everything that shaped the bundle."""
    found = {"edgeq": __version__, "python": platform.python_version()}
    for name in TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def environment() -> str:
    """Where numbers were measured, unless they say otherwise."""
    from edgeq.runtime.host import cpu_name, host_architecture

    return f"onnxruntime {version('onnxruntime')}, CPUExecutionProvider, {host_architecture()}, {cpu_name()}"


def _variant(parts: BundleParts, name: str, writer: BundleWriter) -> Variant:
    spec, lowered = parts.written[name]
    folder = f"model/{name}"
    variant = Variant(
        id=name,
        model=f"{folder}/{lowered.model.name}",
        runtime=spec.runtime,
        execution_provider=spec.execution_provider,
        precision=str(spec.precision),
        inputs=lowered.inputs,
        outputs=lowered.outputs,
        size_bytes=writer.size_bytes(folder),
        opset=lowered.opset,
        requirements={**lowered.requirements, **_memory(parts.measured[name])},
        placement={**lowered.placement, "notes": lowered.remarks},
    )
    lengths = variant.token_lengths
    return (
        replace(variant, requirements={**variant.requirements, "max_tokens": lengths[-1]})
        if lengths
        else variant
    )


def _memory(values: Measured) -> dict[str, int]:
    """What was measured, rounded up; nothing where nothing was."""
    if values.ram_bytes is None:
        return {}
    return {"min_ram_mb": min_ram_mb(values.ram_bytes)}


def min_ram_mb(needed: int) -> int:
    """Bytes as `min_ram_mb` of a variant: whole steps, one at least."""
    return max(-(-needed // (RAM_STEP_MB << 20)), 1) * RAM_STEP_MB


def _quantization(parts: BundleParts, writer: BundleWriter) -> Quantization | None:
    if parts.plan is None:
        return None
    excluded = tuple(ExcludedNode(name, reason) for name, reason in parts.plan.excluded())
    return Quantization(
        precision=parts.precision,
        recipe="recipe.yaml",
        calibration=parts.calibration,
        bits_per_weight=_bits_per_weight(parts, writer),
        excluded=excluded,
    )


def _bits_per_weight(parts: BundleParts, writer: BundleWriter) -> float:
    """Bytes of the first variant over the model's parameters, in bits."""
    name = next(iter(parts.written))
    return round(8 * writer.size_bytes(f"model/{name}") / parts.exported.source.parameters, 2)


def status_of(gates: Sequence[Gate]) -> Status:
    """Of a bundle."""
    return Status.PASSED if all(gate.passed for gate in gates) else Status.FAILED


def tokenizer_info(preprocessor: TextPreprocessor, path: str = "tokenizer") -> TokenizerInfo:
    """What the manifest says of a tokenizer in a folder of the bundle."""
    return TokenizerInfo(
        path=path,
        max_length=preprocessor.max_length,
        pad_id=preprocessor.pad_id,
        special_ids=preprocessor.special_token_ids,
        prompts=preprocessor.settings.prompts,
        default_prompt=preprocessor.settings.default_prompt,
    )


def bundle_name(model: str) -> str:
    """The last part of a path or Hub id, fit for a folder name."""
    name = Path(model.rstrip("/")).name
    name = name.removesuffix(".onnx").removesuffix(".gguf")
    cleaned = "".join(char if char.isalnum() or char in "-_." else "-" for char in name).strip(".-")
    return cleaned or "model"
