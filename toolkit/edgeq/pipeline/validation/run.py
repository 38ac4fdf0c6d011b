"""Validate a bundle, whatever its model's kind: replay, compare, judge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgeq.bundle.reader import open_bundle
from edgeq.comparison import check_gate_metrics
from edgeq.errors import DataError, UnsupportedError
from edgeq.pipeline.drift import worst
from edgeq.pipeline.labelled import labelled_metric
from edgeq.pipeline.sessions import not_executable
from edgeq.pipeline.validation.evidence import compared_head, replayed
from edgeq.pipeline.validation.gates import variant_gates
from edgeq.pipeline.validation.notices import variant_notices
from edgeq.pipeline.validation.report import ValidationReport, VariantReport
from edgeq.pipeline.validation.table import JUDGING, Judging
from edgeq.progress import Progress, SilentProgress
from edgeq.tasks import head_in, mode_of

if TYPE_CHECKING:
    from edgeq.bundle.golden import GoldenCase
    from edgeq.bundle.manifest import Variant
    from edgeq.bundle.reader import Bundle
    from edgeq.pipeline.executions import Execution
    from edgeq.pipeline.validation.evidence import Evidence
    from edgeq.pipeline.validation.judge import Judge
    from edgeq.pipeline.validation.request import ValidationRequest
    from edgeq.progress import Stage
    from edgeq.tasks import Head


def run_validation(request: ValidationRequest, progress: Progress | None = None) -> ValidationReport:
    """Validate a bundle.

    Raises:
        IntegrityError: the bundle's files are not those it lists.
        GateError: it is marked failed, without `force`.
        UsageError: labelled texts, or a gate, for a kind of model that has none such.
        EdgeqError: the original or the data cannot be used, or the lane is not set up.
    """
    progress = progress or SilentProgress()
    request.check()
    with open_bundle(request.bundle, force=request.force) as bundle:
        if request.labels is not None:
            labelled_metric(head_in(bundle.manifest).entry)
        cases = bundle.golden_cases()
        judging = JUDGING[mode_of(bundle.manifest.source.task)]
        _require_comparands(cases, judging, request)
        variants, skipped = _chosen(bundle, request)
        check_gate_metrics(request.gates, head_in(bundle.manifest, variants[0]).entry.metrics)
        judge = judging.open(bundle, variants, cases, request, progress)
        run = _Validation(bundle, request, cases, judging, judge, progress)
        reports: list[VariantReport] = []
        for variant in variants:
            try:
                reports += run.of(variant)
            except UnsupportedError as error:
                # What is wrong beside the model is a verdict of its own.
                if judge.language is None or not judge.language.differences:
                    raise
                skipped[variant.id] = str(error)
        return ValidationReport(tuple(reports), skipped, judge.tokenization, judge.language, judge.run_by)


def _require_comparands(cases: Sequence[GoldenCase], judging: Judging, request: ValidationRequest) -> None:
    """A bundle packed without golden cases has whole files, and nothing that tells what they should compute."""
    if cases or (request.against is not None and judging.can_be_live_alone):
        return
    live = "edgeq validate BUNDLE --against MODEL compares it with the original; or "
    raise DataError(
        f"`{request.bundle}` has no golden cases to replay; every file is the one its manifest lists",
        hint=(live if judging.can_be_live_alone else "") + "validate the bundle it was packed from",
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


@dataclass(frozen=True, slots=True)
class _Validation:
    """One request."""

    bundle: Bundle
    request: ValidationRequest
    cases: Sequence[GoldenCase]
    judging: Judging
    judge: Judge[Any]
    progress: Progress

    def of(self, variant: Variant) -> Iterator[VariantReport]:
        """A report on every way to run a variant."""
        mine = [case for case in self.cases if variant.id in case.outputs]
        head = compared_head(self.bundle, variant, mine)
        total = len(self.cases) + self.judge.samples
        for execution in self.judge.executions(variant):
            with self.progress.stage(f"validating {variant.id} on {execution.place}", total) as stage:
                evidence = self._evidence(variant, head, mine, execution, stage)
                yield self._report(evidence, execution)

    def _evidence(
        self, variant: Variant, head: Head, cases: Sequence[GoldenCase], execution: Execution, stage: Stage
    ) -> Evidence:
        judge = self.judge
        feeds = [*(case.feeds for case in cases), *judge.repeats(variant, cases)]
        outputs = list(execution.outputs(feeds))
        judge.repeat(variant, outputs[len(cases) :])
        found = replayed(variant, head, cases, outputs[: len(cases)])
        stage.advance(len(self.cases))
        compared = judge.compare(execution, head, stage.advance)
        return replace(found, compared=compared, examined=judge.examine(execution, stage.advance))

    def _report(self, evidence: Evidence, execution: Execution) -> VariantReport:
        requests = self.request.gates
        gates = variant_gates(
            self.bundle,
            evidence,
            requests,
            on_named_data=self.request.data is not None,
            floors_judge_golden=self.judging.floors_judge_golden,
        )
        return VariantReport(
            evidence.variant.id,
            execution.level,
            execution.environment,
            evidence.shown,
            {name: worst(items) for name, items in evidence.drifts.items()},
            tuple(gates),
            evidence.source,
            evidence.recorded,
            None if evidence.examined is None else evidence.examined.result,
            variant_notices(self.bundle, evidence, gates, has_requests=bool(requests)),
        )
