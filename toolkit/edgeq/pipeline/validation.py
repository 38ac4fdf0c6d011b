"""`edgeq validate`: golden vectors on this machine, an emulated ARM64 core or a phone, and the live original."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.bundle.manifest import Gate
from edgeq.comparison import DEFAULT, PARITY, GateRequest, check_gate_metrics, judge
from edgeq.errors import DataError, IntegrityError, UnsupportedError, UsageError
from edgeq.metrics import KNOWN_METRICS, TAIL_METRICS
from edgeq.pipeline.drift import Drift, case_drifts, not_finite, worst
from edgeq.pipeline.executions import Execution, executions
from edgeq.pipeline.forward.live import LIVE_SAMPLES, Comparands, open_comparands
from edgeq.pipeline.kernel_noise import GOLDEN, golden_metrics, is_golden, kept_of
from edgeq.pipeline.labelled import labelled_metric
from edgeq.pipeline.saturating import saturating_in
from edgeq.pipeline.sessions import not_executable
from edgeq.pipeline.tokenization import TokenizationReport, replay_tokenization
from edgeq.progress import Progress, SilentProgress
from edgeq.runtime.executors import CAN_SATURATE, PLACES
from edgeq.tasks import LABELLED_METRICS, head_in, is_autoregressive
from edgeq.tasks.older import unsaid_kind
from edgeq.types import ONNX_RUNTIME, TensorSpec, Verification

if TYPE_CHECKING:
    from edgeq.bundle.golden import GoldenCase
    from edgeq.bundle.manifest import Variant
    from edgeq.bundle.reader import Bundle
    from edgeq.pipeline.generation.replay import LanguageReport
    from edgeq.pipeline.labelled import LabelledResult
    from edgeq.runtime.adb import AdbOptions

__all__ = ["LIVE_SAMPLES", "ValidationReport", "ValidationRequest", "VariantReport", "run_validation"]

OLD_BOUNDS = (
    "a bundle of one score, or of several labels at once, that was made before such models were judged by their scores "
    "has to be exported again: edgeq export"
)
"""Hint on a metric that means nothing for a kind of model: the cosine of one number is its sign."""


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
        drift: per output, how far all golden cases together are from the outputs recorded in the bundle; empty where it
            has none.
        gates: with their values.
        recorded: the same metrics of the outputs that the export recorded on its own machine, over the golden cases.
        labelled: the task's own metric, where labelled samples were given.
        notices: what the verdict alone does not say.
    """

    id: str
    verification: Verification
    environment: Mapping[str, str]
    outputs: Mapping[str, Mapping[str, float]]
    drift: Mapping[str, Drift]
    gates: tuple[Gate, ...]
    source: str
    recorded: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    labelled: LabelledResult | None = None
    notices: tuple[str, ...] = ()

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
                    "max_abs_from_recorded": self.drift[name].max_abs if name in self.drift else None,
                    "rms_from_recorded": self.drift[name].rms if name in self.drift else None,
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
            "labelled": None if self.labelled is None else self.labelled.to_json(),
            "notices": list(self.notices),
        }


@dataclass(frozen=True, slots=True)
class RunBy:
    """What ran the original of a live comparison.

    Attributes:
        name: the library and its entry point, for people.
        is_library: whether the original's own library read the texts; otherwise edgeq's reading of its files did, and
            what it overlooks is overlooked on both sides.
        notices: what the name alone does not say.
    """

    name: str
    is_library: bool
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """The verdict over all variants."""

    variants: tuple[VariantReport, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Variants that were not run, and why."""
    tokenization: TokenizationReport | None = None
    """The golden texts through the bundle's tokenizer; None where the cases hold no texts."""
    language: LanguageReport | None = None
    """Of a language model: texts, chats, settings and answers repeated."""
    run_by: RunBy | None = None
    """The original of a live comparison of single outputs; None without one."""

    def title(self, variant: VariantReport) -> str:
        """A variant's name; with its provider where it was run in several ways."""
        ways = sum(other.id == variant.id for other in self.variants)
        return variant.id if ways == 1 else f"{variant.id}, {variant.environment['provider']}"

    @property
    def failures(self) -> list[str]:
        """Everything that does not hold, a few words each."""
        failed = [
            f"{self.title(variant)} {gate.output} {gate.metric}"
            for variant in self.variants
            for gate in variant.gates
            if not gate.passed
        ]
        if self.tokenization is not None:
            failed += [f"token ids of {case}" for case in self.tokenization.different]
        return failed if self.language is None else failed + self.language.failures

    @property
    def passed(self) -> bool:
        """Whether something was run, the texts gave the recorded token ids, and every gate held."""
        return bool(self.variants) and not self.failures

    def to_json(self) -> dict[str, Any]:
        """As `validate --json` prints it."""
        return {
            "passed": self.passed,
            "variants": [variant.to_json() for variant in self.variants],
            "skipped": dict(self.skipped),
            "tokenization": None
            if self.tokenization is None
            else {"cases": self.tokenization.cases, "different": list(self.tokenization.different)},
            "language": None if self.language is None else self.language.to_json(),
            "original": None
            if self.run_by is None
            else {"run_by": self.run_by.name, "by_its_own_library": self.run_by.is_library},
        }


def run_validation(request: ValidationRequest, progress: Progress | None = None) -> ValidationReport:
    """Validate a bundle.

    Raises:
        IntegrityError: the bundle's files are not those it lists.
        GateError: it is marked failed, without `force`.
        UsageError: labelled texts for a kind of model that none are read for.
        EdgeqError: the original or the data cannot be used, or the lane is not set up.
    """
    from edgeq.bundle.reader import open_bundle

    progress = progress or SilentProgress()
    _check(request)
    with open_bundle(request.bundle, force=request.force) as bundle:
        if request.labels is not None:
            labelled_metric(head_in(bundle.manifest).entry)
        cases = bundle.golden_cases()
        _require_comparands(bundle, cases, request)
        variants, skipped = _chosen(bundle, request)
        if is_autoregressive(bundle.manifest.source.task):
            from edgeq.pipeline.generation.validation import validate_language_model

            found = validate_language_model(bundle, variants, skipped, cases, request, progress)
            return replace(found, variants=_explained(bundle, found.variants))
        head = head_in(bundle.manifest, variants[0])
        check_gate_metrics(request.gates, head.entry.metrics)
        tokenization = _tokenization(bundle, cases)
        comparands = open_comparands(bundle, head, request, progress)
        total = len(cases) + comparands.samples
        reports = []
        for variant in variants:
            for execution in executions(bundle, variant, request.on, cpu=request.cpu, adb=request.adb):
                with progress.stage(f"validating {variant.id} on {execution.place}", total) as stage:
                    reports.append(
                        _validate_variant(bundle, variant, execution, cases, request, comparands, stage)
                    )
        live = comparands.live
        run_by = (
            None if live is None else RunBy(live.original.name, live.original.is_library, tuple(live.notices))
        )
        return ValidationReport(_explained(bundle, reports), skipped, tokenization, run_by=run_by)


def _require_comparands(bundle: Bundle, cases: Sequence[GoldenCase], request: ValidationRequest) -> None:
    """A bundle packed without golden cases has whole files, and nothing that tells what they should compute."""
    is_language = is_autoregressive(bundle.manifest.source.task)
    if cases or (request.against is not None and not is_language):
        return
    live = "edgeq validate BUNDLE --against MODEL compares it with the original; or "
    raise DataError(
        f"`{request.bundle}` has no golden cases to replay; every file is the one its manifest lists",
        hint=("" if is_language else live) + "validate the bundle it was packed from",
    )


def _explained(bundle: Bundle, reports: Sequence[VariantReport]) -> tuple[VariantReport, ...]:
    """The reports; those that fail where recorded values may come from other kernels say so."""
    return tuple(
        replace(report, notices=(*report.notices, *_old_kernels(bundle, report))) for report in reports
    )


def _old_kernels(bundle: Bundle, report: VariantReport) -> Iterator[str]:
    """Why a variant may compute something else than is recorded, though its file is what it was.

    Bundles that do not say which layers can saturate were recorded with whatever kernels their machine had.
    """
    variant = bundle.variant(report.id)
    differs = any(drift.max_abs > 0 for drift in report.drift.values())
    if all(gate.passed for gate in report.gates) or not differs:
        return
    if CAN_SATURATE in variant.placement or variant.runtime != ONNX_RUNTIME:
        return
    layers = saturating_in(bundle.model_path(variant))
    if layers:
        yield (
            f"{variant.id}: integer sums of {len(layers)} layers can saturate (first `{layers[0]}`), and the recorded "
            "values may come from kernels that do: export it again, which writes layers that are exact everywhere"
        )


def _tokenization(bundle: Bundle, cases: Sequence[GoldenCase]) -> TokenizationReport | None:
    from edgeq.runtime.runtime import load_preprocessor

    preprocessor = load_preprocessor(bundle)
    return None if preprocessor is None else replay_tokenization(preprocessor, cases)


def _check(request: ValidationRequest) -> None:
    if request.on not in PLACES:
        raise UsageError(f"unknown place `{request.on}`", hint=f"--on takes {', '.join(PLACES)}")
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
    execution: Execution,
    cases: Sequence[GoldenCase],
    request: ValidationRequest,
    comparands: Comparands,
    stage: Any,
) -> VariantReport:
    mine = [case for case in cases if variant.id in case.outputs]
    head = head_in(bundle.manifest, variant)
    specs = _recorded_outputs(variant, mine) if cases else head.outputs
    head = replace(head, outputs=specs)
    outputs = list(execution.outputs(case.feeds for case in mine))
    recorded = [case.outputs[variant.id] for case in mine]
    drifts = case_drifts(specs, mine, recorded, outputs) if mine else {}
    kept = [kept_of(case, specs, found) for case, found in zip(mine, outputs, strict=True)]
    golden = golden_metrics(head, mine, kept) if mine else {}
    stage.advance(len(cases))
    found, source = golden, f"{len(mine)} golden cases"
    if comparands.live is not None:
        found, source = comparands.live.compare(execution, head, stage.advance), comparands.live.source
    labelled = None
    if comparands.examination is not None:
        labelled = comparands.examination.examine(execution, stage.advance)
    # Where labelled samples compare with the original and no other texts were named, they decide if they can.
    decides = request.data is None and labelled is not None and labelled.decides
    gates = [
        *case_gates(bundle, variant, mine, drifts),
        *_judged(
            bundle,
            variant,
            request,
            golden,
            found,
            drifts,
            is_live=comparands.live is not None,
            decided=decides,
        ),
    ]
    gates += _unsaid(not_finite(variant.id, drifts), gates)
    notices = list(_unbounded(bundle, variant, mine))
    if comparands.examination is not None and labelled is not None:
        output = comparands.examination.labelled.output
        found = {**found, output: {**found[output], **labelled.metrics()}}
        gates += labelled_gates(bundle, variant, output, labelled)
        if (unsaid := unsaid_kind(bundle.manifest)) is not None:
            notices.append(unsaid)
        if labelled.undecided is not None:
            judges = "the --gate" if request.gates else "the bundle's own floors"
            notices.append(f"{variant.id}: {labelled.undecided}; {judges} judge")
    before = golden_metrics(head, mine, recorded) if mine else {}
    drift = {name: worst(items) for name, items in drifts.items()}
    return VariantReport(
        variant.id,
        execution.level,
        execution.environment,
        found,
        drift,
        tuple(gates),
        source,
        before,
        labelled,
        tuple(notices),
    )


def _unsaid(found: Sequence[Gate], gates: Sequence[Gate]) -> list[Gate]:
    """Failed gates on outputs that nothing else has failed."""
    failed = {gate.output for gate in gates if not gate.passed}
    return [gate for gate in found if gate.output not in failed]


def _unbounded(bundle: Bundle, variant: Variant, cases: Sequence[GoldenCase]) -> Iterator[str]:
    """Recorded outputs that may be anything: whoever made the bundle said nothing of them."""
    bounds = [bound for entry in bundle.manifest.golden for bound in entry.tolerances]
    bounds += [gate for gate in bundle.manifest.gates if gate.metric not in LABELLED_METRICS]
    bounded = {bound.output for bound in bounds if bound.variant == variant.id}
    for output in dict.fromkeys(name for case in cases for name in case.outputs[variant.id]):
        if output not in bounded:
            yield f"nothing bounds `{output}` of {variant.id}: the bundle has no gate on it, and no tolerance"


def labelled_gates(bundle: Bundle, variant: Variant, output: str, result: LabelledResult) -> list[Gate]:
    """The loss against the original, and what the bundle itself promises of the metric."""
    lost = result.gate(variant.id, output)
    promised = [
        judge_stored(gate, {output: result.metrics()})
        for gate in bundle.manifest.gates
        if (gate.variant, gate.output, gate.metric) == (variant.id, output, result.name)
    ]
    return promised if lost is None else [lost, *promised]


def _recorded_outputs(variant: Variant, cases: Sequence[GoldenCase]) -> tuple[TensorSpec, ...]:
    """Outputs that every golden case of a variant holds, of the original and of the variant."""
    found = tuple(
        spec
        for spec in variant.outputs
        if cases
        and all(spec.name in case.reference and spec.name in case.outputs[variant.id] for case in cases)
    )
    if not found:
        raise IntegrityError(
            f"no output of `{variant.id}` is in all of its golden cases, beside the original's, to compare with"
        )
    return found


def case_gates(
    bundle: Bundle, variant: Variant, cases: Sequence[GoldenCase], drifts: Mapping[str, Sequence[Drift]]
) -> list[Gate]:
    """Every tolerance of every golden case; of each output and metric the one that is nearest to its bound, or over."""
    entries = {entry.id: entry for entry in bundle.manifest.golden}
    judged: dict[tuple[str, str], list[Gate]] = {}
    for index, case in enumerate(cases):
        found = {output: items[index].metrics() for output, items in drifts.items()}
        for gate in entries[case.id].tolerances:
            if gate.variant == variant.id:
                named = replace(gate, derived_from=f"golden case {case.id}: {gate.derived_from}")
                judged.setdefault((gate.output, gate.metric), []).append(judge_stored(named, found))
    return [max(gates, key=_closeness) for gates in judged.values()]


def _closeness(gate: Gate) -> float:
    """How near a value is to its bound; above 0 beyond it, and infinite for NaN."""
    assert gate.value is not None
    beyond = gate.value - gate.threshold if gate.op == "<=" else gate.threshold - gate.value
    return math.inf if math.isnan(beyond) else beyond


def _judged(
    bundle: Bundle,
    variant: Variant,
    request: ValidationRequest,
    golden: Mapping[str, Mapping[str, float]],
    found: Mapping[str, Mapping[str, float]],
    drifts: Mapping[str, Sequence[Drift]],
    *,
    is_live: bool,
    decided: bool,
) -> list[Gate]:
    """Bounds on all golden cases together, and quality gates: the user's, or those stored in the bundle.

    Gates derived from one set of texts do not bind other texts: of those measured on held-out samples only floors
    judge live data, and golden cases are held to what was measured on them. How far outputs are apart on live data does
    not judge where labelled samples have decided already.
    """
    stored = [
        gate
        for gate in bundle.manifest.gates
        if gate.variant == variant.id and gate.metric not in LABELLED_METRICS
    ]
    all_cases = together(golden, drifts)
    gates = [judge_stored(gate, all_cases) for gate in stored if is_golden(gate)]
    if request.gates:
        return gates + [
            judge(Gate(variant.id, output, item.metric, item.op, item.threshold, "--gate"), metrics)
            for output, metrics in found.items()
            for item in request.gates
            if item.metric in metrics
        ]
    # The ONNX variant that the other gates compare with is in another bundle.
    floors = [
        gate
        for gate in stored
        if not is_golden(gate) and not gate.derived_from.startswith("measured") and gate.metric != PARITY
    ]
    if not is_live:
        held = {gate.output for gate in gates if gate.metric.startswith(GOLDEN)}
        return gates + [judge_stored(gate, golden) for gate in floors if _judges_golden(gate, held)]
    if decided:
        return gates
    return gates + [judge_stored(gate, found) for gate in floors]


def together(
    golden: Mapping[str, Mapping[str, float]], drifts: Mapping[str, Sequence[Drift]]
) -> dict[str, dict[str, float]]:
    """What gates on all golden cases may bound, by output: distances from what is recorded, and from the original."""
    return {
        output: worst(items).metrics() | {f"{GOLDEN}{name}": value for name, value in golden[output].items()}
        for output, items in drifts.items()
    }


def _judges_golden(floor: Gate, held: Collection[str]) -> bool:
    """Whether a floor judges golden cases too.

    They are chosen to be rare, and a default floor is for usual texts: it judges them in its mean alone, and only where
    the bundle does not hold the output to what was measured on them, which is stricter.
    """
    if not floor.derived_from.startswith(DEFAULT):
        return True
    return floor.metric not in TAIL_METRICS and floor.output not in held


def judge_stored(gate: Gate, metrics: Mapping[str, Mapping[str, float]]) -> Gate:
    """A gate of the manifest, which names what its maker liked."""
    measured = metrics.get(gate.output, {})
    if gate.metric not in measured:
        raise IntegrityError(
            f"the manifest bounds {gate.metric} of `{gate.output}`, which is not measured; known are "
            f"{', '.join(measured) or 'none'}",
            hint=OLD_BOUNDS if gate.metric.removeprefix(GOLDEN) in KNOWN_METRICS else None,
        )
    return judge(gate, measured)
