"""Bundles of language models for targets that take a graph: lowered with a KV cache, measured, recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.comparison import gates_for
from edgeq.exporters.causal_lm import load_language_model
from edgeq.exporters.shapes import read_shape
from edgeq.files import atomic_write_text
from edgeq.graph.streamed_tensor import is_too_large
from edgeq.pipeline.advise.memory import estimate
from edgeq.pipeline.generation.data import LanguageData, divide_language
from edgeq.pipeline.generation.measure import graph_answers, language_golden, measure_language
from edgeq.pipeline.generation.noise import decoder_bounds
from edgeq.pipeline.generation.record import record_answers
from edgeq.pipeline.make import lower_variants, quantizing_of
from edgeq.pipeline.plan import model_name
from edgeq.pipeline.quantizing import quantize_model
from edgeq.pipeline.sensitivity import sensitivity_of
from edgeq.pipeline.write import BundleParts, MadeVariant, min_ram_mb
from edgeq.quantize.layers import find_layers
from edgeq.quantize.recipes.schema import RecipeExport
from edgeq.runtime.executors import CAN_SATURATE
from edgeq.runtime.generation.footprint import PROBE_ANSWER, PROBE_PROMPT
from edgeq.runtime.generation.session import DecoderSession
from edgeq.targets.target import LoweringOptions

if TYPE_CHECKING:
    from edgeq.bundle.golden import GoldenCase
    from edgeq.bundle.writer import BundleWriter
    from edgeq.exporters.causal_lm import ExportedLanguageModel
    from edgeq.pipeline.bounds import Bounds
    from edgeq.pipeline.measured import Measured
    from edgeq.pipeline.plan import ExportPlan, TargetResult
    from edgeq.pipeline.quantizing import Quantized
    from edgeq.progress import Progress
    from edgeq.quantize.recipes import Recipe
    from edgeq.quantize.sensitivity import LayerEffect
    from edgeq.targets.target import VariantSpec


def open_graph(plan: ExportPlan, progress: Progress) -> GraphMaker:
    """Export the graph, divide the texts and quantize, once for all targets that take a graph.

    Raises:
        EdgeqError: see `edgeq.pipeline.export.run_export`.
    """
    request = plan.request
    with progress.stage("exporting the model") as stage:
        exported = load_language_model(str(request.model), revision=request.revision, context=request.seq_len)
        size = exported.source.parameters / 1e6
        stage.note = (
            f"{exported.source.architecture}, {size:.1f} M parameters, graph by {exported.graph_source}, "
            "equal to the original"
        )
        if is_too_large(exported.canonical.model):
            stage.note += ", weights left on disk"
    plan.say_new(exported.notices, progress)
    data = divide_language(plan.data, exported, request.calib_samples)
    quantized = quantize_model(
        exported.canonical,
        data.sets,
        request.recipe,
        progress,
        exported.packed,
        request.requantize and bool(plan.facts.lost),
    )
    effects = sensitivity_of(exported.head, quantized, data.sets, progress) if request.sensitivity else ()
    return GraphMaker(plan, exported, data, quantized, progress, effects)


@dataclass(frozen=True, slots=True)
class GraphMaker:
    """A quantized decoder graph, for every target of one export that takes it."""

    plan: ExportPlan
    exported: ExportedLanguageModel
    data: LanguageData
    quantized: Quantized
    progress: Progress
    effects: Sequence[LayerEffect] = ()

    def make(
        self, target: str, writer: BundleWriter, scratch: Path, done: Sequence[TargetResult]
    ) -> BundleParts:
        """See `Maker.make`."""
        source = self.quantized.lowering_input(self.exported.canonical)
        specs = self.plan.variants[target]
        written = lower_variants(target, specs, source, LoweringOptions(), writer, self.progress)
        ((spec, lowered),) = written.values()
        fp32, fp32_bytes = self._fp32(scratch)
        safe = lowered.placement.get(CAN_SATURATE) == []
        measured = measure_language(
            self.exported, lowered.model, fp32, spec, self.data, self.progress, safe=safe
        )
        golden, bounds = self._golden(spec, lowered.model)
        self._write_settings(writer, lowered.model.parent)
        settings, preprocessor = self.exported.settings, self.exported.preprocessor
        greedy = graph_answers(spec, lowered.model, settings, preprocessor.tokenizer_json, bounds.largest)
        made = MadeVariant(
            spec, lowered, (measured,), self._requirements(measured), self._streaming_notes(measured)
        )
        asked = self.plan.request.gates, len(self.data.windows), self.exported.head.entry
        return BundleParts(
            name=model_name(self.plan.request),
            target=target,
            facts=self.plan.facts,
            source=self.exported.source,
            head=self.exported.head,
            preprocessor=preprocessor,
            variants=(made,),
            golden=golden,
            bounds=bounds,
            gates=gates_for(spec.id, self.quantized.precision, measured.fidelity, *asked),
            recipe=self._recipe(),
            fp32_bytes=fp32_bytes,
            tokenizer=f"model/{spec.id}",
            inputs=preprocessor.input_names,
            quantizing=quantizing_of(self.plan, self.quantized, self.data.sets, preprocessor, self.effects),
            language=record_answers(writer, preprocessor, lowered.model, greedy, self.progress),
        )

    def _golden(self, spec: VariantSpec, model: Path) -> tuple[list[GoldenCase], Bounds]:
        """Golden cases, and how far another machine may be from them."""
        with self.progress.stage("recording golden cases, measuring kernel noise") as stage:
            cases = language_golden(self.exported, spec, model, self.data)
            bounds = decoder_bounds(spec.id, model, cases, stage, spec.level)
            stage.note = f"{len(cases)} cases"
        return cases, bounds

    def _fp32(self, folder: Path) -> tuple[DecoderSession | None, int]:
        """The float32 graph, for the ratio of speed, and its size; no session of one that is too large."""
        import onnx_ir as ir

        model = self.exported.canonical.model
        if is_too_large(model):
            tensors = (value.const_value for value in model.graph.initializers.values())
            size = sum(tensor.nbytes for tensor in tensors if tensor is not None)
            self.progress.notice(f"speed is not compared with float32, whose graph takes {size / 1e9:.1f} GB")
            return None, size
        path = folder / "fp32.onnx"
        ir.save(model, path, external_data="fp32.onnx.data")
        size = sum(file.stat().st_size for file in folder.glob("fp32.onnx*"))
        settings = self.exported.settings
        return DecoderSession(path, settings.cache, settings.context_length), size

    def _write_settings(self, writer: BundleWriter, folder: Path) -> None:
        """Tokenizer and configs beside the model: the folder of the variant is what ONNX Runtime GenAI opens."""
        self.exported.preprocessor.save(folder)
        _write_json(folder / "tokenizer_config.json", self.exported.tokenizer_config)
        if self.exported.genai_config:
            _write_json(folder / "genai_config.json", self.exported.genai_config)
        self.exported.settings.save(writer.folder)

    def _recipe(self) -> Recipe:
        """What `edgeq export --recipe recipe.yaml` needs to do the same again."""
        request = self.plan.request
        samples = request.calib_samples if self.quantized.is_calibrated else None
        return replace(self.quantized.recipe, export=RecipeExport(request.seq_len, samples, request.seed))

    def _requirements(self, measured: Measured) -> dict[str, int | str]:
        settings = self.exported.settings
        found: dict[str, int | str] = {
            "min_ram_mb": min_ram_mb(measured.ram_bytes or self._estimated_bytes()),
            "context_length": settings.context_length,
            "kv_cache_bytes_per_token": settings.cache.bytes_per_token,
        }
        return found | ({"onnxruntime-genai": ">=0.9"} if self.exported.genai_config else {})

    def _streaming_notes(self, measured: Measured) -> tuple[str, ...]:
        """How a large model was checked, where that is not how a small one is."""
        notes = []
        if is_too_large(self.exported.canonical.model):
            notes.append(
                "the float32 graph was compared with the original some nodes at a time, on the whole checkpoint; its "
                "speed was not measured"
            )
        if measured.ram_bytes is None:
            notes.append(
                "the written model was run some nodes at a time; min_ram_mb is estimated, and nothing was timed"
            )
        return tuple(notes)

    def _estimated_bytes(self) -> int:
        """Memory to run a model that was not loaded whole, by the estimate of `edgeq advise`."""
        shape, _ = read_shape(str(self.exported.weights.folder), None)
        layers = find_layers(self.exported.canonical.model).refs
        tokens = min(PROBE_PROMPT + PROBE_ANSWER, self.exported.settings.context_length)
        return estimate(shape, layers, self.quantized.recipe.resolve(layers), tokens, external=True).ram


def _write_json(path: Path, document: Mapping[str, object]) -> None:
    atomic_write_text(path, json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True) + "\n")
