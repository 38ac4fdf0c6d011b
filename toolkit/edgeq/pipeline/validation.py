"""`edgeq validate`: golden vectors on this machine, an emulated ARM64 core or a phone, and the live original."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.bundle.manifest import Gate
from edgeq.comparison import PARITY, GateRequest, Run, compare_runs, judge
from edgeq.errors import DataError, UnsupportedError, UsageError
from edgeq.metrics import OutputComparison
from edgeq.pipeline.labelled import TaskMetric, read_labelled
from edgeq.pipeline.sessions import not_executable, open_variant
from edgeq.progress import Progress, SilentProgress
from edgeq.runtime.executors import PLACES, Executor, architecture_of, level_of, open_executor
from edgeq.runtime.session import VariantSession, execute_through
from edgeq.types import Feeds, Outputs, Task, TensorSpec, Verification

if TYPE_CHECKING:
    from edgeq.bundle.golden import GoldenCase
    from edgeq.bundle.manifest import Variant
    from edgeq.bundle.reader import Bundle
    from edgeq.runtime.adb import AdbOptions
    from edgeq.runtime.text import TextPreprocessor
    from edgeq.targets.base import Session

LIVE_SAMPLES = 128
ONNX_RUNTIME = "onnxruntime"


@dataclass(frozen=True, slots=True)
class ValidationRequest:
    """What to validate and against what."""

    bundle: Path
    against: str | None = None
    data: str | None = None
    data_column: str | None = None
    on: str = "native"
    cpu: str = "cortex-a76"
    variants: tuple[str, ...] = ()
    gates: tuple[GateRequest, ...] = ()
    force: bool = False
    seed: int = 1
    adb: AdbOptions | None = None
    labels: Path | None = None


@dataclass(frozen=True, slots=True)
class VariantReport:
    """One variant's verdict.

    Attributes:
        id: of the variant.
        verification: how real the execution was.
        environment: where.
        outputs: metrics by output against the original, over the golden cases or, with `against`, live.
        drift: per output, largest difference from the outputs recorded in the bundle.
        gates: with their values.
        recorded: the same metrics of the outputs that the export recorded on its own machine, over the golden cases.
    """

    id: str
    verification: Verification
    environment: Mapping[str, str]
    outputs: Mapping[str, Mapping[str, float]]
    drift: Mapping[str, float]
    gates: tuple[Gate, ...]
    source: str
    recorded: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As `validate --json` prints it."""
        return {
            "id": self.id,
            "verification": str(self.verification),
            "environment": dict(self.environment),
            "compared_on": self.source,
            "outputs": [
                {
                    "name": name,
                    "metrics": dict(metrics),
                    "recorded": dict(self.recorded.get(name, {})),
                    "max_abs_from_recorded": self.drift[name],
                }
                for name, metrics in self.outputs.items()
            ],
            "gates": [
                {
                    "output": gate.output,
                    "metric": gate.metric,
                    "op": gate.op,
                    "threshold": gate.threshold,
                    "value": gate.value,
                    "passed": gate.passed,
                    "derived_from": gate.derived_from,
                }
                for gate in self.gates
            ],
        }


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """The verdict over all variants."""

    variants: tuple[VariantReport, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Variants that were not run, and why."""

    def title(self, variant: VariantReport) -> str:
        """A variant's name; with its provider where it was run in several ways."""
        ways = sum(other.id == variant.id for other in self.variants)
        return variant.id if ways == 1 else f"{variant.id}, {variant.environment['provider']}"

    @property
    def passed(self) -> bool:
        """Whether something was run and every gate held."""
        return bool(self.variants) and all(gate.passed for variant in self.variants for gate in variant.gates)

    def to_json(self) -> dict[str, Any]:
        """As `validate --json` prints it."""
        return {
            "passed": self.passed,
            "variants": [variant.to_json() for variant in self.variants],
            "skipped": dict(self.skipped),
        }


def run_validation(request: ValidationRequest, progress: Progress | None = None) -> ValidationReport:
    """Validate a bundle.

    Raises:
        IntegrityError: the bundle's files are not those it lists.
        GateError: it is marked failed, without `force`.
        EdgeqError: the original or the data cannot be used, or the lane is not set up.
    """
    from edgeq.bundle.reader import open_bundle

    progress = progress or SilentProgress()
    _check(request)
    with open_bundle(request.bundle, force=request.force) as bundle:
        cases = bundle.golden_cases()
        if not cases:
            raise DataError(f"`{request.bundle}` has no golden cases to replay")
        variants, skipped = _chosen(bundle, request)
        if bundle.manifest.source.task is Task.TEXT_GENERATION:
            from edgeq.pipeline.language_validation import validate_language_model

            return validate_language_model(bundle, variants, skipped, cases, request, progress)
        live = _Live.open(bundle, request, progress) if request.against else None
        reports = []
        for variant in variants:
            for execution in _executions(bundle, variant, request):
                with progress.stage(f"validating {variant.id} on {execution.place}", len(cases)) as stage:
                    reports.append(_validate_variant(bundle, variant, execution, cases, request, live, stage))
        return ValidationReport(tuple(reports), skipped)


def _check(request: ValidationRequest) -> None:
    if request.on not in PLACES:
        raise UsageError(f"unknown place `{request.on}`", hint=f"--on takes {', '.join(PLACES)}")
    if request.labels and not request.against:
        raise UsageError("--labels needs --against: the task's metric is compared with the original's")
    if request.data and not request.against:
        raise UsageError(
            "--data needs --against: without the original there is nothing to compare new texts with"
        )


def _chosen(bundle: Bundle, request: ValidationRequest) -> tuple[list[Variant], dict[str, str]]:
    wanted = [bundle.variant(name) for name in request.variants] or list(bundle.variants)
    skipped = {
        variant.id: reason for variant in wanted if (reason := not_executable(bundle, variant, request.on))
    }
    kept = [variant for variant in wanted if variant.id not in skipped]
    if not kept:
        reasons = "; ".join(f"{name} {reason}" for name, reason in skipped.items())
        raise UnsupportedError(f"none of the bundle's variants can be executed here: {reasons}")
    return kept, skipped


def _validate_variant(
    bundle: Bundle,
    variant: Variant,
    execution: _Execution,
    cases: Sequence[GoldenCase],
    request: ValidationRequest,
    live: _Live | None,
    stage: Any,
) -> VariantReport:
    specs = _recorded_outputs(variant, cases)
    outputs = execution.replay([case.feeds for case in cases])
    golden = _compare([case.reference for case in cases], outputs, cases, specs)
    recorded = [case.outputs[variant.id] for case in cases]
    drift = _drift(recorded, outputs, specs)
    stage.advance(len(cases))
    found, source = golden, f"{len(cases)} golden cases"
    if live is not None:
        found, source = live.compare(execution.run(), specs), live.source
    gates = _judged(bundle, variant, request, golden, found, drift, live is not None)
    before = _compare([case.reference for case in cases], recorded, cases, specs)
    return VariantReport(
        variant.id, execution.level, execution.environment, found, drift, tuple(gates), source, before
    )


def _recorded_outputs(variant: Variant, cases: Sequence[GoldenCase]) -> tuple[TensorSpec, ...]:
    """Outputs that every golden case holds, of the original and of the variant."""
    found = tuple(
        spec
        for spec in variant.outputs
        if all(
            spec.name in case.reference and spec.name in case.outputs.get(variant.id, {}) for case in cases
        )
    )
    if not found:
        raise DataError(f"the golden cases hold no output of `{variant.id}` to compare with")
    return found


@dataclass(frozen=True, slots=True)
class _Execution:
    """How one variant is executed.

    Attributes:
        place: `native`, `arm64`, `adb`, or what a runtime of its own calls it.
        level: of what comes out.
        environment: where.
        replay: canonical feeds to outputs, all in one go.
        run: makes a function that runs single batches on this machine.
    """

    place: str
    level: Verification
    environment: Mapping[str, str]
    replay: Callable[[Sequence[Feeds]], list[Outputs]]
    run: Callable[[], Run]


def _executions(bundle: Bundle, variant: Variant, request: ValidationRequest) -> Iterator[_Execution]:
    """Every way in which the place that was asked for can run a variant."""
    path = bundle.file(variant.model)
    pad_id = bundle.manifest.tokenizer.pad_id if bundle.manifest.tokenizer else 0
    if variant.runtime != ONNX_RUNTIME:
        session = open_variant(bundle, variant, path, pad_id)
        for one in (session, *session.also):
            yield _of_session(one, request.on)
        return
    executor = _executor(variant, request)
    yield _Execution(
        request.on,
        level_of(executor, variant),
        executor.environment,
        lambda batches: execute_through(executor, path, variant, batches, pad_id=pad_id),
        lambda: VariantSession(path, variant, pad_id=pad_id).run,
    )


def _of_session(session: Session, place: str) -> _Execution:
    return _Execution(
        session.environment.get("provider", place),
        session.verification,
        session.environment,
        lambda batches: [session.run(feeds) for feeds in batches],
        lambda: session.run,
    )


def _executor(variant: Variant, request: ValidationRequest) -> Executor:
    arch = architecture_of(variant)
    return open_executor(request.on, cpu=request.cpu, target_arch=arch, adb=request.adb)  # type: ignore[arg-type]


def _compare(
    reference: Sequence[Outputs],
    found: Sequence[Outputs],
    cases: Sequence[GoldenCase],
    specs: Sequence[TensorSpec],
) -> dict[str, dict[str, float]]:
    comparisons = [OutputComparison(spec) for spec in specs]
    for expected, got, case in zip(reference, found, cases, strict=True):
        for comparison in comparisons:
            name = comparison.spec.name
            comparison.add(expected[name], got[name], case.feeds.get("attention_mask"))
    return {comparison.spec.name: comparison.metrics() for comparison in comparisons}


def _drift(
    recorded: Sequence[Outputs], found: Sequence[Outputs], specs: Sequence[TensorSpec]
) -> dict[str, float]:
    return {
        spec.name: max(
            float(np.abs(a[spec.name] - b[spec.name]).max()) for a, b in zip(recorded, found, strict=True)
        )
        for spec in specs
    }


def _judged(
    bundle: Bundle,
    variant: Variant,
    request: ValidationRequest,
    golden: Mapping[str, Mapping[str, float]],
    found: Mapping[str, Mapping[str, float]],
    drift: Mapping[str, float],
    is_live: bool,
) -> list[Gate]:
    """Tolerances on the recorded outputs, and quality gates: the user's, or those stored in the bundle.

    Gates derived from one set of texts do not bind other texts; of the stored ones only floors judge live data.
    """
    tolerances = {
        (gate.variant, gate.output): gate for entry in bundle.manifest.golden for gate in entry.tolerances
    }
    gates = [
        judge(gate, {"max_abs": drift[output]})
        for (name, output), gate in tolerances.items()
        if name == variant.id and gate.metric == "max_abs"
    ]
    if request.gates:
        return gates + [
            judge(Gate(variant.id, output, item.metric, item.op, item.threshold, "--gate"), metrics)
            for output, metrics in found.items()
            for item in request.gates
        ]
    stored = [gate for gate in bundle.manifest.gates if gate.variant == variant.id]
    # The ONNX variant that the other gates compare with is in another bundle.
    floors = [
        gate for gate in stored if not gate.derived_from.startswith("measured") and gate.metric != PARITY
    ]
    return gates + [judge(gate, (found if is_live else golden)[gate.output]) for gate in floors]


@dataclass(frozen=True, slots=True)
class _Live:
    """The original model and texts to compare on."""

    reference: Run
    batches: tuple[Feeds, ...]
    source: str
    preprocessor: TextPreprocessor
    labelled: TaskMetric | None = None
    original_score: float | None = None

    @classmethod
    def open(cls, bundle: Bundle, request: ValidationRequest, progress: Progress) -> _Live:
        from edgeq.calibration import load_samples
        from edgeq.exporters import load_model
        from edgeq.quantize.batches import batches_of
        from edgeq.runtime.runtime import load_preprocessor

        preprocessor = load_preprocessor(bundle)
        if preprocessor is None:
            raise DataError("the bundle has no tokenizer; live comparison needs one")
        labelled = None
        if request.labels is not None:
            labelled = read_labelled(
                request.labels, bundle.manifest.source, bundle.variants[0].outputs[0].name
            )
        data = load_samples(request.data, column=request.data_column, count=LIVE_SAMPLES, seed=request.seed)
        with progress.stage("loading the original"):
            original = load_model(str(request.against), task=str(bundle.manifest.source.task))
        judge_ = preprocessor.with_max_length(_shortest(bundle, preprocessor))
        batches = tuple(feeds for feeds, _ in batches_of(data.samples, judge_, 16))
        score = None
        if labelled is not None:
            with progress.stage(f"the original on {len(labelled.gold)} labelled samples"):
                score = labelled.measure(original.reference, judge_)
        source = f"{len(data.samples)} samples of {data.source}"
        return cls(original.reference, batches, source, judge_, labelled, score)

    def compare(self, run: Run, specs: Sequence[TensorSpec]) -> dict[str, dict[str, float]]:
        found = compare_runs(self.reference, {"variant": run}, self.batches, specs)["variant"]
        if self.labelled is not None and self.original_score is not None:
            name = self.labelled.name
            found[self.labelled.output][name] = self.labelled.measure(run, self.preprocessor)
            found[self.labelled.output][f"{name}_original"] = self.original_score
        return found


def _shortest(bundle: Bundle, preprocessor: TextPreprocessor) -> int:
    static = [
        dim
        for variant in bundle.variants
        for spec in variant.inputs
        for dim in spec.shape[1:2]
        if isinstance(dim, int)
    ]
    return min([preprocessor.max_length, *static])
