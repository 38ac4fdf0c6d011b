"""Bundles of models that run once per input: lowered for each target, measured beside float32, recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.comparison import check_gate_metrics, gates_for
from edgeq.exporters import load_model
from edgeq.exporters.source import is_onnx_file
from edgeq.pipeline.bounds import Bounds, measured_bounds
from edgeq.pipeline.choices import all_lengths, judged_length, require_language_model, static_length
from edgeq.pipeline.forward.against_onnx import difference_gates
from edgeq.pipeline.forward.data import DataSets, divide, part_sizes
from edgeq.pipeline.forward.measure import golden_cases, measure_variants, open_session
from edgeq.pipeline.forward.onnx_variant import CalibrationFeeds, find_onnx_variant, onnx_first
from edgeq.pipeline.forward.rehearse import refuse_partitions
from edgeq.pipeline.kernel_noise import measure_noise
from edgeq.pipeline.make import Way, lower_variants, quantizing_of
from edgeq.pipeline.plan import model_name
from edgeq.pipeline.quantizing import quantize_model
from edgeq.pipeline.sensitivity import sensitivity_of
from edgeq.pipeline.write import BundleParts, MadeVariant
from edgeq.quantize.recipes.schema import RecipeExport
from edgeq.targets import get_target
from edgeq.targets.target import Lowered, LoweringInput, LoweringOptions, Session, VariantSpec, check_graph

if TYPE_CHECKING:
    from edgeq.bundle.golden import GoldenCase
    from edgeq.bundle.manifest import Gate
    from edgeq.bundle.writer import BundleWriter
    from edgeq.calibration import CalibrationData
    from edgeq.exporters.exported_model import ExportedModel, ModelFacts
    from edgeq.pipeline.make import Maker
    from edgeq.pipeline.measured import Measured
    from edgeq.pipeline.plan import ExportPlan, TargetResult
    from edgeq.pipeline.quantizing import Quantized
    from edgeq.pipeline.request import ExportRequest
    from edgeq.progress import Progress
    from edgeq.quantize.recipes import Recipe
    from edgeq.quantize.sensitivity import LayerEffect
    from edgeq.targets.target import Target
    from edgeq.tasks import Head

Written = Mapping[str, tuple[VariantSpec, Lowered]]
"""Spec and result of every variant by id, most preferred first."""


def _plan(
    request: ExportRequest,
    facts: ModelFacts,
    targets: Mapping[str, Target],
    variants: Mapping[str, tuple[VariantSpec, ...]],
    _progress: Progress,
) -> tuple[Recipe, Mapping[str, tuple[VariantSpec, ...]]]:
    """What the targets offer, where all of them take graphs."""
    require_language_model(targets, facts)
    return request.recipe, variants


def sample_counts(data: CalibrationData, calib_samples: int) -> tuple[int, int]:
    """How many samples an export holds out to judge, and with how many it calibrates."""
    held_out, _, calibrating = part_sizes(len(data), calib_samples)
    return held_out, calibrating


def open_model(plan: ExportPlan, progress: Progress) -> Iterator[tuple[str, Maker]]:
    """Export the graph, divide the data and quantize, once for all targets.

    Raises:
        EdgeqError: see `edgeq.pipeline.export.run_export`.
    """
    request = plan.request
    with progress.stage("exporting the model") as stage:
        exported = load_model(
            str(request.model), task=request.task, revision=request.revision, seq_len=request.seq_len
        )
        size = exported.source.parameters / 1e6
        stage.note = f"{exported.source.architecture}, {size:.1f} M parameters, equal to the original"
    plan.say_new(exported.notices, progress)
    head = exported.head
    check_gate_metrics(request.gates, head.entry.metrics)
    seq_len = static_length(request, exported)
    options = LoweringOptions(seq_len, all_lengths(request, exported), request.ios)
    for name in plan.destinations:
        check_graph(get_target(name), exported.canonical.model)
    if is_onnx_file(plan.facts.model):
        refuse_partitions(exported, plan.variants, options)
    data = divide(
        plan.data,
        exported.preprocessor,
        calibration_samples=request.calib_samples,
        entry=head.entry,
        max_length=judged_length(plan, seq_len, exported),
    )
    quantized = quantize_model(exported.canonical, data, request.recipe, progress)
    effects = sensitivity_of(head, quantized, data, progress) if request.sensitivity else ()
    maker = ForwardMaker(plan, exported, head, data, quantized, options, progress, effects)
    yield from ((name, maker) for name in onnx_first(plan.destinations))


FORWARD = Way(_plan, sample_counts, open_model)


@dataclass(frozen=True, slots=True)
class ForwardMaker:
    """A quantized graph, for every target of one export."""

    plan: ExportPlan
    exported: ExportedModel
    head: Head
    data: DataSets
    quantized: Quantized
    options: LoweringOptions
    progress: Progress
    effects: Sequence[LayerEffect] = ()

    def make(
        self, target: str, writer: BundleWriter, scratch: Path, done: Sequence[TargetResult]
    ) -> BundleParts:
        """See `Maker.make`."""
        written = lower_variants(
            target, self.plan.variants[target], self._source(), self.options, writer, self.progress
        )
        fp32_model = self._fp32(scratch)
        sessions = {
            name: open_session(get_target(target), spec, lowered, self.exported.preprocessor.pad_id)
            for name, (spec, lowered) in written.items()
        }
        measured = measure_variants(
            self.exported.canonical,
            self.head,
            fp32_model,
            self.exported.reference,
            written,
            sessions,
            self.data,
            self.progress,
            find_onnx_variant(done, self.exported.preprocessor.pad_id, self.quantized.plan is not None),
        )
        golden, bounds = self._golden(sessions)
        self.exported.preprocessor.save(writer.path("tokenizer/tokenizer.json").parent, limits=True)
        return self._parts(target, written, measured, golden, bounds, fp32_model.stat().st_size)

    def _source(self) -> LoweringInput:
        calibration = CalibrationFeeds(self.data)
        return self.quantized.lowering_input(
            self.exported.canonical, calibration=calibration, about=self.exported.source
        )

    def _fp32(self, folder: Path) -> Path:
        import onnx_ir as ir

        path = folder / "fp32.onnx"
        ir.save(self.exported.canonical.model, path)
        return path

    def _golden(self, sessions: Mapping[str, Session]) -> tuple[list[GoldenCase], Bounds]:
        """Golden cases, and the kernel noise of every variant."""
        with self.progress.stage("recording golden cases, measuring kernel noise") as stage:
            cases = golden_cases(self.exported.reference, sessions, self.head, self.data)
            noise = {
                name: measure_noise(session, name, self.head, cases, stage)
                for name, session in sessions.items()
            }
            stage.note = f"{len(cases)} cases"
        return cases, measured_bounds(cases, noise)

    def _gates(self, measured: Mapping[str, Measured]) -> list[Gate]:
        asked = self.plan.request.gates, self.data.held_out_samples, self.head.entry
        return [
            gate
            for name, values in measured.items()
            for gate in (
                *gates_for(name, self.quantized.precision, values.fidelity, *asked),
                *difference_gates(name, values.differences),
            )
        ]

    def _parts(
        self,
        target: str,
        written: Written,
        measured: Mapping[str, Measured],
        golden: Sequence[GoldenCase],
        bounds: Bounds,
        fp32_bytes: int,
    ) -> BundleParts:
        preprocessor = self.exported.preprocessor
        return BundleParts(
            name=model_name(self.plan.request),
            target=target,
            facts=self.plan.facts,
            source=self.exported.source,
            head=self.head,
            preprocessor=preprocessor,
            variants=[MadeVariant(*written[name], (values,)) for name, values in measured.items()],
            golden=golden,
            bounds=bounds,
            gates=self._gates(measured),
            recipe=self._recipe(),
            fp32_bytes=fp32_bytes,
            inputs=preprocessor.input_names,
            quantizing=quantizing_of(self.plan, self.quantized, self.data, preprocessor, self.effects),
        )

    def _recipe(self) -> Recipe:
        """What `edgeq export --recipe recipe.yaml` needs to do the same again."""
        request, options = self.plan.request, self.options
        samples = request.calib_samples if self.quantized.is_calibrated else None
        lengths = options.seq_len if len(options.lengths) == 1 else options.lengths
        export = RecipeExport(lengths, samples, request.seed, options.ios)
        return replace(self.quantized.recipe, export=export)
