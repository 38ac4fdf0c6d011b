"""`edgeq export` of a language model for targets that take its tensors, not a graph: calibrate, write, measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.bundle.golden import GoldenCase
from edgeq.bundle.language_golden import LANGUAGE_FILE, GreedyGolden
from edgeq.bundle.manifest import (
    Calibration,
    Gate,
    Manifest,
    PreprocessKind,
    PreprocessStep,
    Quantization,
    Variant,
)
from edgeq.comparison import gates_for
from edgeq.errors import ModelError
from edgeq.files import atomic_write_text
from edgeq.pipeline.assemble import (
    bundle_name,
    environment,
    min_ram_mb,
    status_of,
    tokenizer_info,
    tool_versions,
    write_pages,
)
from edgeq.pipeline.forward.measure import Measured, describe_environment, metrics_of
from edgeq.pipeline.generation.data import LanguageData, divide_language
from edgeq.pipeline.generation.file_run import Run, runs_of
from edgeq.pipeline.generation.golden import Answering, greedy_golden, record_language
from edgeq.pipeline.generation.measure import GOLDEN_TOKENS, golden_prompts
from edgeq.pipeline.generation.noise import LLAMA_CPP, Bounds, own_error_bounds
from edgeq.pipeline.stored import compared_with
from edgeq.quantize.recipes.schema import ExportOptions
from edgeq.runtime.perplexity import compare_on
from edgeq.targets.base import CheckpointInput, CheckpointTarget, Lowered, VariantSpec
from edgeq.targets.kernels import HELD_BYTES
from edgeq.tasks.next_token import NEXT_TOKEN
from edgeq.types import FloatArray, Verification

if TYPE_CHECKING:
    from edgeq.bundle.reader import Bundle
    from edgeq.bundle.writer import BundleWriter
    from edgeq.exporters.causal_lm.original import OriginalLanguageModel
    from edgeq.pipeline.export import ExportPlan, ExportRequest, TargetResult
    from edgeq.progress import Progress
    from edgeq.quantize.weight_only import LayerStats


def export_checkpoint_targets(
    plan: ExportPlan, targets: Mapping[str, CheckpointTarget], progress: Progress
) -> list[TargetResult]:
    """Write a bundle for each target, from one load of the model.

    Raises:
        EdgeqError: see `run_export`.
    """
    from edgeq.exporters.causal_lm import open_original

    request = plan.request
    with progress.stage("loading the model") as stage:
        original = open_original(str(request.model), revision=request.revision, context=request.seq_len)
        stage.note = f"{original.source.architecture}, {original.source.parameters / 1e6:.1f} M parameters"
    plan.say_new(original.notices, progress)
    data = divide_language(plan.data, original, request.calib_samples)
    return [
        _CheckpointExport(plan, request, original, data, target, progress).write()
        for target in targets.values()
    ]


@dataclass(frozen=True, slots=True)
class _CheckpointExport:
    """One target of one export."""

    plan: ExportPlan
    request: ExportRequest
    original: OriginalLanguageModel
    data: LanguageData
    target: CheckpointTarget
    progress: Progress

    def write(self) -> TargetResult:
        from edgeq.bundle.writer import BundleWriter
        from edgeq.pipeline.export import TargetResult, finished

        destination = self.plan.destinations[self.target.name]
        (spec,) = self.plan.variants[self.target.name]
        with BundleWriter(destination, self.request.force) as writer:
            lowered = self._lower(spec, writer)
            runs = runs_of(self.target, spec, lowered.model, self.original)
            measured = [self._measure(run, lowered.model) for run in runs]
            gates = self._gates(spec, measured[0])
            with self.progress.stage(f"writing {destination.name}"):
                bundle = self._bundle(writer, spec, lowered, runs[0], measured, gates)
        bundle, archive, page = finished(bundle, self.request)
        size = 4 * self.original.source.parameters
        against = compared_with(self.plan.facts)
        return TargetResult(self.target.name, bundle, {spec.id: measured[0]}, size, archive, against, page)

    def _lower(self, spec: VariantSpec, writer: BundleWriter) -> Lowered:
        folder = writer.path(f"model/{spec.id}/file").parent
        verb = "quantizing and writing" if self.target.is_calibrated(spec) else "writing"
        with self.progress.stage(f"{verb} tensors", len(self.original.tensors)) as stage:
            source = CheckpointInput(
                name=bundle_name(str(self.request.model)),
                config=self.original.config,
                tensors=self.original.tensors,
                tokenizer_json=self.original.preprocessor.tokenizer_json,
                special_ids=self.original.preprocessor.special_token_ids,
                settings=self.original.settings,
                about=self.original.source,
                observe=self._observe,
                advance=stage.advance,
            )
            lowered = self.target.write(spec, source, folder)
        for note in lowered.notes:
            self.progress.notice(f"{spec.id}: {note}")
        return lowered

    def _observe(self, parameters: Sequence[str], gram: bool) -> Mapping[str, LayerStats]:
        return self.original.observe(parameters, self.data.calibration, gram=gram)

    def _measure(self, run: Run, model: Path) -> Measured:
        reference = self.original.reference
        title = f"comparing with the original ({run.verification})"
        with self.progress.stage(title, len(self.data.windows)) as stage:
            fidelity = compare_on(
                lambda ids: reference(ids[None])[0], run.logits, self.data.windows, stage.advance
            )
        if not np.isfinite(list(fidelity.values())).all():
            raise ModelError("the written file gives NaN or infinite logits")
        ram = None
        if run.verification is not Verification.SIMULATED:
            with self.progress.stage("measuring memory"):
                ram = self.target.ram_bytes(model, self.original.settings.context_length)
        return Measured(
            {"logits": fidelity},
            None,
            None,
            ram,
            run.verification,
            environment=describe_environment(run.where),
        )

    def _gates(self, spec: VariantSpec, measured: Measured) -> list[Gate]:
        precision = self.target.precision_of(spec)
        windows = len(self.data.windows)
        return gates_for(spec.id, precision, measured.fidelity, self.request.gates, windows, NEXT_TOKEN)

    def _bundle(
        self,
        writer: BundleWriter,
        spec: VariantSpec,
        lowered: Lowered,
        run: Run,
        measured: Sequence[Measured],
        gates: list[Gate],
    ) -> Bundle:
        from edgeq.bundle.golden import write_golden

        self._write_files(spec, writer)
        golden = self._golden(spec.id, run)
        bounds = own_error_bounds(spec.id, golden, LLAMA_CPP)
        gates = [*gates, *bounds.gates]
        entries = write_golden(writer.folder, golden, bounds.tolerances)
        self._record_language(writer, spec, lowered.model, run, bounds)
        manifest = Manifest(
            name=bundle_name(str(self.request.model)),
            target=self.target.name,
            source=self.original.source,
            variants=(self._variant(spec, lowered, measured[0], writer),),
            created_by=tool_versions(),
            status=status_of(gates),
            quantization=self._quantization(spec, lowered),
            tokenizer=tokenizer_info(self.original.preprocessor),
            preprocess=(PreprocessStep(PreprocessKind.TOKENIZE, ("input_ids",)),),
            golden=entries,
            language_golden=LANGUAGE_FILE,
            gates=tuple(gates),
            metrics=tuple(metric for one in measured for metric in metrics_of({spec.id: one}, environment())),
        )
        write_pages(writer, manifest, self.plan.facts, self.original.preprocessor)
        return writer.commit(manifest)

    def _write_files(self, spec: VariantSpec, writer: BundleWriter) -> None:
        self.original.preprocessor.save(writer.path("tokenizer/tokenizer.json").parent)
        cache = replace(self.original.settings.cache, bytes_per_value=self.target.cache_bytes_per_value)
        replace(self.original.settings, cache=cache).save(writer.folder)
        options = ExportOptions(self.request.seq_len, self.request.calib_samples, self.request.seed)
        recipe = replace(self.target.recipe_of(spec), export=options)
        atomic_write_text(writer.path("recipe.yaml"), recipe.to_yaml())

    def _record_language(
        self, writer: BundleWriter, spec: VariantSpec, model: Path, run: Run, bounds: Bounds
    ) -> None:
        """After the files it describes."""
        tokenizer_json = self.original.preprocessor.tokenizer_json
        relative = model.relative_to(writer.folder).as_posix()
        greedy = self._answers(spec.id, run, bounds.largest)
        if greedy.doubt is not None:
            self.progress.notice(f"{spec.id}: {greedy.doubt}")
        record_language(writer.folder, tokenizer_json, relative, greedy).save(writer.folder)

    def _answers(self, variant: str, run: Run, noise: float) -> GreedyGolden:
        is_simulated = run.verification is Verification.SIMULATED
        if is_simulated and 4 * self.original.source.parameters > HELD_BYTES:
            reason = "only a simulation runs the file here, and it would take minutes"
            return GreedyGolden(variant, 0.0, reason)

        def start(capacity: int) -> Callable[[Sequence[int]], FloatArray]:
            seen: list[int] = []

            def step(tokens: Sequence[int]) -> FloatArray:
                seen.extend(tokens)
                row: FloatArray = run.logits(np.asarray(seen, np.int64))[-1]
                return row

            return step

        answering = Answering(variant, start, run.logits, noise)
        return greedy_golden(self.original.preprocessor.tokenizer_json, self.original.settings, answering)

    def _golden(self, variant: str, run: Run) -> list[GoldenCase]:
        """Prompts from an empty cache."""
        limit = min(GOLDEN_TOKENS, self.original.settings.context_length)
        cases = []
        for index, (prompt, text) in enumerate(
            golden_prompts(self.data, limit, self.original.settings.vocabulary)
        ):
            ids = np.asarray(prompt, np.int64)
            cases.append(
                GoldenCase(
                    f"prefill-{index:02d}",
                    text,
                    {"input_ids": ids[None]},
                    {"logits": self.original.reference(ids[None])},
                    {variant: {"logits": run.logits(ids)[None]}},
                )
            )
        return cases

    def _variant(
        self, spec: VariantSpec, lowered: Lowered, measured: Measured, writer: BundleWriter
    ) -> Variant:
        settings = self.original.settings
        requirements: dict[str, Any] = {"context_length": settings.context_length}
        if measured.ram_bytes is not None:
            requirements["min_ram_mb"] = min_ram_mb(measured.ram_bytes)
        return Variant(
            id=spec.id,
            model=f"model/{spec.id}/{lowered.model.name}",
            runtime=spec.runtime,
            execution_provider=spec.execution_provider,
            precision=spec.precision,
            inputs=lowered.inputs,
            outputs=lowered.outputs,
            size_bytes=writer.size_bytes(f"model/{spec.id}"),
            requirements={**lowered.requirements, **requirements},
            placement={**lowered.placement, "notes": lowered.remarks},
        )

    def _quantization(self, spec: VariantSpec, lowered: Lowered) -> Quantization | None:
        if not self.target.is_calibrated(spec):
            return None
        found = self.plan.data
        bits = 8 * lowered.model.stat().st_size / self.original.source.parameters
        return Quantization(
            precision=spec.precision,
            recipe="recipe.yaml",
            calibration=Calibration(found.source, found.sha256, self.data.texts, self.request.seed),
            bits_per_weight=round(bits, 2),
        )
