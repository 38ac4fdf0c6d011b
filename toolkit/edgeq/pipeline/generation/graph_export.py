"""`edgeq export` for causal language models: export with a KV cache, quantize weights, measure, bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from edgeq.bundle.language_golden import LANGUAGE_FILE
from edgeq.bundle.manifest import (
    Calibration,
    Gate,
    GoldenEntry,
    Manifest,
    PreprocessKind,
    PreprocessStep,
    Quantization,
    Variant,
)
from edgeq.comparison import gates_for
from edgeq.errors import UnsupportedError, UsageError
from edgeq.files import atomic_write_text
from edgeq.graph.streamed_tensor import is_too_large
from edgeq.pipeline.assemble import (
    bundle_name,
    environment,
    min_ram_mb,
    status_of,
    tokenizer_info,
    tool_versions,
    write_pages,
)
from edgeq.pipeline.choices import check_file_type, target_hint
from edgeq.pipeline.forward.measure import metrics_of
from edgeq.pipeline.generation.data import LanguageData, divide_language
from edgeq.pipeline.generation.golden import record_language
from edgeq.pipeline.generation.measure import (
    graph_answers,
    language_golden,
    measure_language,
)
from edgeq.pipeline.generation.noise import Bounds, decoder_bounds
from edgeq.pipeline.generation.recipe import INT8_NOTICE, for_language_models, is_plain_int8
from edgeq.pipeline.quantizing import Quantized, quantize_model
from edgeq.pipeline.sensitivity import FILE_NAME, sensitivity_of, to_document
from edgeq.pipeline.stored import compared_with, is_stored, say_growth
from edgeq.quantize.recipes import Recipe, load_recipe
from edgeq.quantize.recipes.schema import ExportOptions
from edgeq.runtime.executors import CAN_SATURATE
from edgeq.runtime.generation.session import DecoderSession
from edgeq.scratch import scratch_folder
from edgeq.targets import TARGETS, get_target
from edgeq.targets.base import GraphTarget, Lowered, LoweringOptions, VariantSpec
from edgeq.tasks.next_token import NEXT_TOKEN

if TYPE_CHECKING:
    from edgeq.bundle.golden import GoldenCase
    from edgeq.bundle.reader import Bundle
    from edgeq.bundle.writer import BundleWriter
    from edgeq.exporters.causal_lm import ExportedLanguageModel
    from edgeq.pipeline.export import ExportPlan, ExportRequest, TargetResult
    from edgeq.pipeline.forward.measure import Measured
    from edgeq.progress import Progress
    from edgeq.quantize.sensitivity import LayerEffect
    from edgeq.targets.base import CheckpointTarget, Target

ENGINE = "cpu"


def language_recipe(recipe: Recipe, progress: Progress) -> Recipe:
    """The recipe as language models are quantized: `int8` means 8-bit weights, and activations without fixed ranges.

    Raises:
        UnsupportedError: the recipe wants static int8 activations.
    """
    if is_plain_int8(recipe):
        progress.notice(INT8_NOTICE)
    return for_language_models(recipe)


def plan_language_model(
    targets: Mapping[str, Target], request: ExportRequest, progress: Progress
) -> tuple[Recipe, dict[str, tuple[VariantSpec, ...]]]:
    """The recipe of the targets that take a graph, and the variants of all targets.

    Targets that take the checkpoint read the recipe's name as their own file type.

    Raises:
        UsageError: options that mean nothing to a language model.
        UnsupportedError: a target, a variant or a recipe that cannot be made.
    """
    recipe = request.recipe
    graphs = {name: target for name, target in targets.items() if target.made_from == "graph"}
    _check_options(request, graphs)
    for target in targets.values():
        check_file_type(target, recipe)
    lowered = language_recipe(recipe, progress) if graphs else recipe
    found = language_variants(graphs, lowered, request.variants, progress) if graphs else {}
    for name in targets:
        if name not in graphs:
            found[name] = _file_variants(targets[name], recipe)
    return lowered, {name: found[name] for name in targets}


def _check_options(request: ExportRequest, graphs: Mapping[str, Target]) -> None:
    if request.sensitivity and not graphs:
        raise UsageError(
            f"--sensitivity runs an ONNX graph layer by layer, and {', '.join(request.targets)} has none",
            hint="leave it out, or --target cpu or android",
        )
    if len(request.seq_lens) > 1:
        raise UsageError(
            f"--seq-len has {len(request.seq_lens)} lengths, expected one: the context of a language model",
            hint=f"--seq-len {max(request.seq_lens)}",
        )


def _file_variants(target: Target, recipe: Recipe) -> tuple[VariantSpec, ...]:
    specs = target.variants(recipe)
    if specs[0].refusal is not None:
        names = "--precision q4_k_m, q8, fp16 ... or one of its own (edgeq targets)"
        raise UnsupportedError(
            f"target `{target.name}` cannot make this variant: {specs[0].refusal}",
            hint=f"--requantize and {names}" if is_stored(recipe) else names,
        )
    return specs


def language_variants(
    targets: Mapping[str, Target], recipe: Recipe, wanted: Sequence[str], progress: Progress
) -> dict[str, tuple[VariantSpec, ...]]:
    """The CPU variant of each target.

    Raises:
        UnsupportedError: a target or a variant that runs no decoder with a KV cache.
    """
    refused = [engine for engine in wanted if engine != ENGINE]
    if refused:
        raise UnsupportedError(
            f"variant `{refused[0]}` runs no language model: its graphs have static shapes and no KV cache",
            hint="--variants cpu",
        )
    found = {}
    for name, target in targets.items():
        specs = [spec for spec in target.variants(recipe) if spec.engine == ENGINE]
        if not specs:
            raise UnsupportedError(
                f"target `{name}` does not take language models: edgeq has no stateful KV cache for it",
                hint=target_hint(filter(takes_language_models, TARGETS)),
            )
        if specs[0].refusal is not None:
            raise UnsupportedError(f"target `{name}` cannot make this variant: {specs[0].refusal}")
        # What the target itself refuses was said when variants were chosen.
        others = [spec for spec in target.variants(recipe) if spec.engine != ENGINE and spec.refusal is None]
        for engine in dict.fromkeys(spec.engine for spec in others):
            progress.notice(f"no {engine} variant for {name}: it has static shapes and no KV cache")
        found[name] = tuple(specs)
    return found


def takes_language_models(name: str) -> bool:
    """Whether a target makes something of language models, with some recipe."""
    target = get_target(name)
    return target.made_from == "checkpoint" or any(
        spec.engine == ENGINE for spec in target.variants(load_recipe("int8"))
    )


def export_language_model(plan: ExportPlan, progress: Progress) -> list[TargetResult]:
    """Everything after the plan; called by `run_export`.

    Raises:
        EdgeqError: see `run_export`.
    """
    from edgeq.pipeline.generation.file_export import export_checkpoint_targets

    found = {name: get_target(name) for name in plan.destinations}
    graphs = [name for name, target in found.items() if target.made_from == "graph"]
    results = {result.target: result for result in _export_graphs(plan, graphs, progress)} if graphs else {}
    files = {name: cast("CheckpointTarget", target) for name, target in found.items() if name not in graphs}
    if files:
        results |= {result.target: result for result in export_checkpoint_targets(plan, files, progress)}
    return [results[name] for name in plan.destinations]


def _export_graphs(plan: ExportPlan, targets: Sequence[str], progress: Progress) -> list[TargetResult]:
    """The targets that take a graph."""
    from edgeq.exporters.causal_lm import load_language_model

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
    export = _LanguageExport(plan, request, exported, data, quantized, progress, effects)
    return [export.write(name) for name in targets]


@dataclass(frozen=True, slots=True)
class _LanguageExport:
    """State shared by the targets of one export."""

    plan: ExportPlan
    request: ExportRequest
    exported: ExportedLanguageModel
    data: LanguageData
    quantized: Quantized
    progress: Progress
    effects: Sequence[LayerEffect] = ()

    def write(self, target_name: str) -> TargetResult:
        from edgeq.bundle.golden import write_golden
        from edgeq.bundle.writer import BundleWriter
        from edgeq.pipeline.export import TargetResult, finished

        destination = self.plan.destinations[target_name]
        with (
            BundleWriter(destination, self.request.force) as writer,
            scratch_folder("fp32") as scratch,
        ):
            (spec,) = self.plan.variants[target_name]
            lowered = self._lower(cast("GraphTarget", get_target(target_name)), spec, writer)
            fp32, fp32_bytes = self._fp32(scratch)
            safe = lowered.placement.get(CAN_SATURATE) == []
            measured = measure_language(
                self.exported, lowered.model, fp32, spec, self.data, self.progress, safe=safe
            )
            gates = gates_for(
                spec.id,
                self.quantized.precision,
                measured.fidelity,
                self.request.gates,
                len(self.data.windows),
                NEXT_TOKEN,
            )
            golden, bounds = self._golden(spec, lowered.model)
            with self.progress.stage(f"writing {destination.name}"):
                gates = [*gates, *bounds.gates]
                entries = write_golden(writer.folder, golden, bounds.tolerances)
                self._write_files(writer, lowered.model.parent)
                self._record_language(writer, spec, lowered.model, bounds)
                bundle = self._bundle(writer, target_name, spec, lowered, measured, gates, entries)
        bundle, archive, page = finished(bundle, self.request)
        facts = self.plan.facts
        say_growth(facts, self.plan.request.recipe, bundle.variants[0].size_bytes, self.progress)
        return TargetResult(
            target_name, bundle, {spec.id: measured}, fp32_bytes, archive, compared_with(facts), page
        )

    def _lower(self, target: GraphTarget, spec: VariantSpec, writer: BundleWriter) -> Lowered:
        source = self.quantized.lowering_input(self.exported.canonical)
        folder = writer.path(f"model/{spec.id}/model.onnx").parent
        with self.progress.stage(f"lowering for {target.name}", 1) as stage:
            lowered = target.lower(spec, source, LoweringOptions(), folder)
            for note in lowered.notes:
                self.progress.notice(f"{spec.id}: {note}")
            stage.advance()
        return lowered

    def _golden(self, spec: VariantSpec, model: Path) -> tuple[list[GoldenCase], Bounds]:
        """Golden cases, and how far another machine may be from them."""
        with self.progress.stage("recording golden cases, measuring kernel noise") as stage:
            cases = language_golden(self.exported, spec, model, self.data)
            bounds = decoder_bounds(spec.id, model, cases, stage, spec.level)
            stage.note = f"{len(cases)} cases"
        return cases, bounds

    def _record_language(self, writer: BundleWriter, spec: VariantSpec, model: Path, bounds: Bounds) -> None:
        """After the files it describes."""
        settings, tokenizer_json = self.exported.settings, self.exported.preprocessor.tokenizer_json
        greedy = graph_answers(spec, model, settings, tokenizer_json, bounds.largest)
        if greedy.doubt is not None:
            self.progress.notice(f"{spec.id}: {greedy.doubt}")
        relative = model.relative_to(writer.folder).as_posix()
        record_language(writer.folder, tokenizer_json, relative, greedy).save(writer.folder)

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

    def _bundle(
        self,
        writer: BundleWriter,
        target: str,
        spec: VariantSpec,
        lowered: Lowered,
        measured: Measured,
        gates: list[Gate],
        entries: tuple[GoldenEntry, ...],
    ) -> Bundle:
        manifest = Manifest(
            name=bundle_name(str(self.request.model)),
            target=target,
            source=self.exported.source,
            variants=(self._variant(spec, lowered, measured, writer),),
            created_by=tool_versions(),
            status=status_of(gates),
            quantization=self._quantization(lowered),
            tokenizer=tokenizer_info(self.exported.preprocessor, f"model/{spec.id}"),
            preprocess=(PreprocessStep(PreprocessKind.TOKENIZE, ("input_ids", "attention_mask")),),
            golden=entries,
            language_golden=LANGUAGE_FILE,
            gates=tuple(gates),
            metrics=tuple(metrics_of({spec.id: measured}, environment())),
        )
        write_pages(writer, manifest, self.plan.facts, self.exported.preprocessor, self.quantized.plan)
        return writer.commit(manifest)

    def _write_files(self, writer: BundleWriter, folder: Path) -> None:
        """Tokenizer and configs beside the model: the folder of the variant is what ONNX Runtime GenAI opens."""
        self.exported.preprocessor.save(folder)
        _write_json(folder / "tokenizer_config.json", self.exported.tokenizer_config)
        if self.exported.genai_config:
            _write_json(folder / "genai_config.json", self.exported.genai_config)
        self.exported.settings.save(writer.folder)
        samples = self.request.calib_samples if self.quantized.is_calibrated else None
        options = ExportOptions(self.request.seq_len, samples, self.request.seed)
        recipe = replace(self.quantized.recipe, export=options)
        atomic_write_text(writer.path("recipe.yaml"), recipe.to_yaml())
        if self.quantized.plan is not None:
            plan = json.dumps(self.quantized.plan.to_json(), indent=1)
            atomic_write_text(writer.path("plan.json"), plan + "\n")
        if self.effects:
            effects = json.dumps(to_document(self.effects), indent=1)
            atomic_write_text(writer.path(FILE_NAME), effects + "\n")

    def _variant(
        self, spec: VariantSpec, lowered: Lowered, measured: Measured, writer: BundleWriter
    ) -> Variant:
        folder, settings = f"model/{spec.id}", self.exported.settings
        notes = [*lowered.remarks, *self._streaming_notes(measured)]
        generation: dict[str, int | str] = {
            "min_ram_mb": min_ram_mb(measured.ram_bytes or self._estimated_bytes()),
            "context_length": settings.context_length,
            "kv_cache_bytes_per_token": settings.cache.bytes_per_token,
        }
        if self.exported.genai_config:
            generation["onnxruntime-genai"] = ">=0.9"
        return Variant(
            id=spec.id,
            model=f"{folder}/{lowered.model.name}",
            runtime=spec.runtime,
            execution_provider=spec.execution_provider,
            precision=str(spec.precision),
            inputs=lowered.inputs,
            outputs=lowered.outputs,
            size_bytes=writer.size_bytes(folder),
            opset=lowered.opset,
            requirements={**lowered.requirements, **generation},
            placement={**lowered.placement, "notes": notes},
        )

    def _streaming_notes(self, measured: Measured) -> list[str]:
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
        return notes

    def _estimated_bytes(self) -> int:
        """Memory to run a model that was not loaded whole, by the estimate of `edgeq advise`."""
        from edgeq.exporters.shapes import read_shape
        from edgeq.pipeline.advise.memory import estimate
        from edgeq.quantize.layers import find_layers
        from edgeq.runtime.generation.footprint import PROBE_ANSWER, PROBE_PROMPT

        shape, _ = read_shape(str(self.exported.weights.folder), None)
        layers = find_layers(self.exported.canonical.model).refs
        tokens = min(PROBE_PROMPT + PROBE_ANSWER, self.exported.settings.context_length)
        return estimate(shape, layers, self.quantized.recipe.resolve(layers), tokens, external=True).ram

    def _quantization(self, lowered: Lowered) -> Quantization | None:
        if self.quantized.plan is None:
            return None
        calibration = None
        if self.quantized.is_calibrated:
            found = self.plan.data
            calibration = Calibration(found.source, found.sha256, self.data.texts, self.request.seed)
        size = sum(file.stat().st_size for file in lowered.model.parent.glob("model.onnx*"))
        return Quantization(
            precision=self.request.recipe.name,
            recipe="recipe.yaml",
            calibration=calibration,
            bits_per_weight=round(8 * size / self.exported.source.parameters, 2),
        )


def _write_json(path: Path, document: Mapping[str, object]) -> None:
    atomic_write_text(path, json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True) + "\n")
