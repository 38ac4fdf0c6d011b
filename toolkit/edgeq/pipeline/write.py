"""The one writer: from measured variants to a bundle on disk, whatever kind of model it is."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from edgeq.bundle.golden import write_golden
from edgeq.bundle.language_golden import LANGUAGE_FILE
from edgeq.bundle.manifest import (
    Calibration,
    ExcludedNode,
    Gate,
    Manifest,
    PreprocessKind,
    PreprocessStep,
    ProcessorInfo,
    Quantization,
    Status,
    TextProcessorInfo,
    Variant,
)
from edgeq.exporters.provenance import legal_texts
from edgeq.files import atomic_write_text
from edgeq.pipeline.measured import Measured, metrics_of
from edgeq.pipeline.sensitivity import FILE_NAME, to_document
from edgeq.report.examples import Recorded
from edgeq.report.html import write_report
from edgeq.report.model_card import write_model_card
from edgeq.runtime.host import cpu_name, host_architecture
from edgeq.types import COMPONENT
from edgeq.version import __version__

if TYPE_CHECKING:
    from edgeq.bundle.golden import GoldenCase
    from edgeq.bundle.language_golden import LanguageGolden
    from edgeq.bundle.reader import Bundle
    from edgeq.bundle.writer import BundleWriter
    from edgeq.exporters.exported_model import ModelFacts
    from edgeq.pipeline.bounds import Bounds
    from edgeq.processors.text import TextPreprocessor
    from edgeq.quantize.coverage import Coverage
    from edgeq.quantize.plan import QuantizationPlan
    from edgeq.quantize.recipes import Recipe
    from edgeq.quantize.sensitivity import LayerEffect
    from edgeq.quantize.static_int8 import Trial
    from edgeq.targets.target import Lowered, VariantSpec
    from edgeq.tasks import Head
    from edgeq.types import SourceInfo

TOOLS = ("torch", "transformers", "onnx", "onnx-ir", "onnxruntime", "coremltools", "numpy")
RAM_STEP_MB = 32
"""Memory is rounded up to this, so that noise of a megabyte does not change a bundle's bytes."""


@dataclass(frozen=True, slots=True)
class MadeVariant:
    """One variant of a bundle.

    Attributes:
        spec: what was asked for.
        lowered: what was written.
        measured: every way in which it was run, the most real one first.
        requirements: what the model's kind adds to those of the target.
        notes: the same of the notes.
    """

    spec: VariantSpec
    lowered: Lowered
    measured: tuple[Measured, ...]
    requirements: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Quantizing:
    """How the weights came to be, for the manifest and the report.

    Attributes:
        precision: the recipe's name.
        plan: decisions by layer; None where the target made them.
        calibration: where activation ranges or weights' importance come from; None where nothing was looked at.
        trials: settings the search tried.
        coverage: of the calibration texts.
        effects: of each quantized layer alone, for `edgeq explain`.
    """

    precision: str
    plan: QuantizationPlan | None = None
    calibration: Calibration | None = None
    trials: Sequence[Trial] = ()
    coverage: Coverage | None = None
    effects: Sequence[LayerEffect] = ()


@dataclass(frozen=True, slots=True)
class BundleParts:
    """What goes into one bundle, beside the files of its variants.

    Attributes:
        facts: of the model that was named; its licence travels along.
        head: how its outputs are read.
        variants: most preferred first.
        golden: what was recorded.
        bounds: what golden cases are held to.
        gates: on held-out samples.
        recipe: the export's settings, re-runnable.
        tokenizer: the folder of the tokenizer, which is there already.
        inputs: model inputs that preprocessing makes.
        quantizing: None where everything stays in floating point.
        language: texts, chats and answers of a language model, which are recorded already.
        fp32_bytes: size of the model in float32.
    """

    name: str
    target: str
    facts: ModelFacts
    source: SourceInfo
    head: Head
    preprocessor: TextPreprocessor
    variants: Sequence[MadeVariant]
    golden: Sequence[GoldenCase]
    bounds: Bounds
    gates: Sequence[Gate]
    recipe: Recipe
    fp32_bytes: int
    tokenizer: str = "tokenizer"
    inputs: tuple[str, ...] = ()
    quantizing: Quantizing | None = None
    language: LanguageGolden | None = None

    @property
    def measured(self) -> dict[str, Measured]:
        """Of each variant the most real run."""
        return {made.spec.id: made.measured[0] for made in self.variants}


def write_bundle(writer: BundleWriter, parts: BundleParts) -> Bundle:
    """Write everything beside the model files, and commit."""
    carry_legal_texts(writer, parts.facts)
    entries = write_golden(writer.folder, parts.golden, parts.bounds.tolerances)
    atomic_write_text(writer.path("recipe.yaml"), parts.recipe.to_yaml())
    how = parts.quantizing
    if how is not None and how.plan is not None:
        _write_json(writer, "plan.json", how.plan.to_json())
    if how is not None and how.effects:
        _write_json(writer, FILE_NAME, to_document(how.effects))
    gates, here = (*parts.gates, *parts.bounds.gates), environment()
    manifest = Manifest(
        name=parts.name,
        target=parts.target,
        source=parts.source,
        variants=tuple(_variant(made, writer) for made in parts.variants),
        created_by=tool_versions(),
        status=status_of(gates),
        quantization=None if how is None else _quantization(how, parts),
        processor=processor_info(parts.preprocessor, parts.tokenizer),
        preprocess=(PreprocessStep(PreprocessKind.TOKENIZE, parts.inputs),),
        postprocess=parts.head.entry.postprocess(parts.head.outputs),
        golden=entries,
        language_golden=None if parts.language is None else LANGUAGE_FILE,
        gates=gates,
        metrics=tuple(
            metric
            for made in parts.variants
            for one in made.measured
            for metric in metrics_of(made.spec.id, one, here)
        ),
    )
    write_model_card(writer.folder, manifest)
    _write_report(writer, manifest, parts)
    return writer.commit(manifest)


def _write_report(writer: BundleWriter, manifest: Manifest, parts: BundleParts) -> None:
    how = parts.quantizing or Quantizing(parts.recipe.name)
    greedy = None if parts.language is None else parts.language.greedy
    write_report(
        writer.folder,
        manifest,
        how.plan,
        how.trials,
        how.coverage,
        fp32_bytes=parts.fp32_bytes,
        cosines={name: values.cosines for name, values in parts.measured.items() if values.cosines} or None,
        recorded=Recorded(parts.golden, parts.preprocessor, greedy),
    )


def _write_json(writer: BundleWriter, name: str, document: object) -> None:
    atomic_write_text(writer.path(name), json.dumps(document, indent=1) + "\n")


def carry_legal_texts(writer: BundleWriter, facts: ModelFacts) -> None:
    """Licence, notices and terms of use of the source, which hold for the bundle too.

    A GGUF file names its licence inside; what lies beside it in a folder of downloads belongs to something else.
    """
    if facts.folder.is_dir():
        for name, text in legal_texts(facts.folder).items():
            atomic_write_text(writer.path(name), text)


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
    return f"onnxruntime {version('onnxruntime')}, CPUExecutionProvider, {host_architecture()}, {cpu_name()}"


def _variant(made: MadeVariant, writer: BundleWriter) -> Variant:
    spec, lowered, folder = made.spec, made.lowered, f"model/{made.spec.id}"
    variant = Variant(
        id=spec.id,
        models={COMPONENT: f"{folder}/{lowered.model.name}"},
        runtime=spec.runtime,
        execution_provider=spec.execution_provider,
        precision=spec.precision,
        inputs=lowered.inputs,
        outputs=lowered.outputs,
        size_bytes=writer.size_bytes(folder),
        opset=lowered.opset,
        requirements={**lowered.requirements, **_memory(made.measured[0]), **made.requirements},
        placement={**lowered.placement, "notes": [*lowered.remarks, *made.notes]},
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


def _quantization(how: Quantizing, parts: BundleParts) -> Quantization:
    excluded = () if how.plan is None else how.plan.excluded()
    return Quantization(
        precision=how.precision,
        recipe="recipe.yaml",
        calibration=how.calibration,
        bits_per_weight=_bits_per_weight(parts),
        excluded=tuple(ExcludedNode(name, reason) for name, reason in excluded),
    )


def _bits_per_weight(parts: BundleParts) -> float:
    """Bytes of the first variant's graph and weights over the model's parameters, in bits."""
    model = parts.variants[0].lowered.model
    files = [
        path for path in (model, *model.parent.glob(f"{model.name}*"), *model.rglob("*")) if path.is_file()
    ]
    size = sum(path.stat().st_size for path in dict.fromkeys(files))
    return round(8 * size / parts.source.parameters, 2)


def status_of(gates: Sequence[Gate]) -> Status:
    """Of a bundle."""
    return Status.PASSED if all(gate.passed for gate in gates) else Status.FAILED


def processor_info(preprocessor: TextPreprocessor, path: str = "tokenizer") -> ProcessorInfo:
    """What the manifest says of a tokenizer in a folder of the bundle."""
    text = TextProcessorInfo(
        path=path,
        max_length=preprocessor.max_length,
        pad_id=preprocessor.pad_id,
        special_ids=preprocessor.special_token_ids,
        prompts=preprocessor.settings.prompts,
        default_prompt=preprocessor.settings.default_prompt,
    )
    return ProcessorInfo(text)
