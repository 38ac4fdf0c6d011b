"""Bundles of language models for targets that take tensors, not a graph: calibrated, written, measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from edgeq.bundle.golden import GoldenCase
from edgeq.bundle.language_golden import GreedyGolden
from edgeq.comparison import gates_for
from edgeq.errors import ModelError
from edgeq.exporters.causal_lm import open_original
from edgeq.pipeline.generation.data import LanguageData, divide_language
from edgeq.pipeline.generation.file_runs import Run, runs_of
from edgeq.pipeline.generation.file_sensitivity import file_sensitivity, require_room
from edgeq.pipeline.generation.golden import Answering, greedy_golden
from edgeq.pipeline.generation.measure import GOLDEN_TOKENS, golden_prompts
from edgeq.pipeline.generation.noise import LLAMA_CPP, own_error_bounds
from edgeq.pipeline.generation.record import record_answers
from edgeq.pipeline.make import calibration_of, coverage_of, say_notes
from edgeq.pipeline.measured import Measured, describe_environment
from edgeq.pipeline.plan import model_name
from edgeq.pipeline.write import BundleParts, MadeVariant, Quantizing
from edgeq.quantize.recipes.schema import RecipeExport
from edgeq.runtime.perplexity import compare_on
from edgeq.targets import get_target
from edgeq.targets.kernels import HELD_BYTES
from edgeq.targets.target import CheckpointInput, CheckpointTarget, Lowered, VariantSpec
from edgeq.tasks import head_of
from edgeq.text_inputs import INPUT_IDS
from edgeq.types import FloatArray, Verification

if TYPE_CHECKING:
    from edgeq.bundle.writer import BundleWriter
    from edgeq.exporters.causal_lm.original import OriginalLanguageModel
    from edgeq.pipeline.plan import ExportPlan, TargetResult
    from edgeq.progress import Progress
    from edgeq.quantize.recipes import Recipe
    from edgeq.quantize.sensitivity import LayerEffect
    from edgeq.quantize.weight_only import LayerStats
    from edgeq.tasks import Head


def open_checkpoint(plan: ExportPlan, progress: Progress) -> FileMaker:
    """Open the checkpoint and divide the texts, once for all targets that take tensors.

    Raises:
        EdgeqError: see `edgeq.pipeline.export.run_export`.
    """
    request = plan.request
    with progress.stage("loading the model") as stage:
        original = open_original(str(request.model), revision=request.revision, context=request.seq_len)
        stage.note = f"{original.source.architecture}, {original.source.parameters / 1e6:.1f} M parameters"
    if request.sensitivity:
        require_room(original)
    plan.say_new(original.notices, progress)
    data = divide_language(plan.data, original, request.calib_samples)
    return FileMaker(plan, original, data, progress)


@dataclass(frozen=True, slots=True)
class FileMaker:
    """A checkpoint, for every target of one export that takes its tensors."""

    plan: ExportPlan
    original: OriginalLanguageModel
    data: LanguageData
    progress: Progress

    def make(
        self, target: str, writer: BundleWriter, scratch: Path, done: Sequence[TargetResult]
    ) -> BundleParts:
        """See `Maker.make`."""
        (spec,) = self.plan.variants[target]
        taker = cast("CheckpointTarget", get_target(target))
        lowered = self._lower(taker, spec, writer)
        head = head_of(self.original.source, lowered.outputs)
        runs = runs_of(taker, spec, lowered.model, self.original)
        measured = tuple(self._measure(taker, run, lowered.model) for run in runs)
        golden = self._golden(spec.id, runs[0])
        bounds = own_error_bounds(spec.id, golden, LLAMA_CPP)
        effects = self._effects(taker, lowered.model, head) if self.plan.request.sensitivity else ()
        self._write_settings(taker, writer)
        greedy = self._answers(spec.id, runs[0], bounds.largest)
        source, preprocessor = self.original.source, self.original.preprocessor
        asked = self.plan.request.gates, len(self.data.windows), head.entry
        requirements = {"context_length": self.original.settings.context_length}
        return BundleParts(
            name=model_name(self.plan.request),
            target=target,
            facts=self.plan.facts,
            source=source,
            head=head,
            preprocessor=preprocessor,
            variants=(MadeVariant(spec, lowered, measured, requirements),),
            golden=golden,
            bounds=bounds,
            gates=gates_for(spec.id, taker.precision_of(spec), measured[0].fidelity, *asked),
            recipe=self._recipe(taker, spec),
            fp32_bytes=4 * source.parameters,
            inputs=(INPUT_IDS,),
            quantizing=self._quantizing(taker, spec, effects),
            language=record_answers(writer, preprocessor, lowered.model, greedy, self.progress),
        )

    def _lower(self, target: CheckpointTarget, spec: VariantSpec, writer: BundleWriter) -> Lowered:
        folder = writer.path(f"model/{spec.id}/file").parent
        verb = "quantizing and writing" if target.is_calibrated(spec) else "writing"
        with self.progress.stage(f"{verb} tensors", len(self.original.tensors)) as stage:
            source = CheckpointInput(
                name=model_name(self.plan.request),
                config=self.original.config,
                tensors=self.original.tensors,
                tokenizer_json=self.original.preprocessor.tokenizer_json,
                special_ids=self.original.preprocessor.special_token_ids,
                settings=self.original.settings,
                about=self.original.source,
                observe=self._observe,
                advance=stage.advance,
            )
            lowered = target.write(spec, source, folder)
        say_notes(spec, lowered, self.progress)
        return lowered

    def _observe(self, parameters: Sequence[str], gram: bool) -> Mapping[str, LayerStats]:
        return self.original.observe(parameters, self.data.calibration, gram=gram)

    def _measure(self, target: CheckpointTarget, run: Run, model: Path) -> Measured:
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
                ram = target.ram_bytes(model, self.original.settings.context_length)
        return Measured(
            {"logits": fidelity},
            None,
            None,
            ram,
            run.verification,
            environment=describe_environment(run.where),
        )

    def _write_settings(self, target: CheckpointTarget, writer: BundleWriter) -> None:
        self.original.preprocessor.save(writer.path("tokenizer/tokenizer.json").parent)
        cache = replace(self.original.settings.cache, bytes_per_value=target.cache_bytes_per_value)
        replace(self.original.settings, cache=cache).save(writer.folder)

    def _recipe(self, target: CheckpointTarget, spec: VariantSpec) -> Recipe:
        request = self.plan.request
        options = RecipeExport(request.seq_len, request.calib_samples, request.seed)
        return replace(target.recipe_of(spec), export=options)

    def _effects(self, target: CheckpointTarget, model: Path, head: Head) -> list[LayerEffect]:
        return file_sensitivity(target, model, self.original, head, self.data.sets.search, self.progress)

    def _quantizing(
        self, target: CheckpointTarget, spec: VariantSpec, effects: Sequence[LayerEffect]
    ) -> Quantizing | None:
        if not target.is_calibrated(spec):
            return None
        return Quantizing(
            spec.precision,
            calibration=calibration_of(self.plan, self.data.sets.calibration_samples),
            coverage=coverage_of(self.data.sets, self.original.preprocessor),
            effects=effects,
        )

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
                    {INPUT_IDS: ids[None]},
                    {"logits": self.original.reference(ids[None])},
                    {variant: {"logits": run.logits(ids)[None]}},
                )
            )
        return cases
