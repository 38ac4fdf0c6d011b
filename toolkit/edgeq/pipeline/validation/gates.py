"""The bounds that one variant is held to: the bundle's own, the user's, and what labelled samples say."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeq.bundle.manifest import Gate
from edgeq.comparison import DEFAULT, ONNX_DIFFERENCE, GateRequest, check_gate_metrics, judge
from edgeq.errors import IntegrityError
from edgeq.metrics import KNOWN_METRICS, TAIL_METRICS
from edgeq.pipeline.drift import Drift, not_finite, worst
from edgeq.pipeline.golden_metrics import GOLDEN, is_golden
from edgeq.tasks import LABELLED_METRICS

if TYPE_CHECKING:
    from edgeq.bundle.manifest import Variant
    from edgeq.bundle.reader import Bundle
    from edgeq.pipeline.validation.evidence import Evidence
    from edgeq.pipeline.validation.judge import Examined

OLD_BOUNDS = (
    "a bundle of one score, or of several labels at once, that was made before such models were judged by their scores "
    "has to be exported again: edgeq export"
)
"""Hint on a metric that means nothing for a kind of model: the cosine of one number is its sign."""


def variant_gates(
    bundle: Bundle,
    evidence: Evidence,
    requests: Sequence[GateRequest],
    *,
    on_named_data: bool,
    floors_judge_golden: bool,
) -> list[Gate]:
    """Everything that one execution of a variant is held to, with its verdicts.

    Args:
        bundle: its manifest has the gates and tolerances.
        evidence: what running the variant gave.
        requests: the user's, in place of the bundle's quality gates.
        on_named_data: the user named the texts of the live comparison, which then decide beside labelled samples.
        floors_judge_golden: whether the golden cases are many enough for the bundle's floors.

    Raises:
        IntegrityError: the manifest bounds what is not measured.
    """
    examined = evidence.examined
    # Where labelled samples compare with the original and no other texts were named, they decide if they can.
    is_decided = not on_named_data and examined is not None and examined.result.decides
    gates = [
        *_case_gates(bundle, evidence),
        *_quality_gates(
            bundle, evidence, requests, is_decided=is_decided, floors_judge_golden=floors_judge_golden
        ),
    ]
    gates += _unsaid(not_finite(evidence.variant.id, evidence.drifts), gates)
    return gates if examined is None else gates + _labelled_gates(bundle, evidence.variant, examined)


def _unsaid(found: Sequence[Gate], gates: Sequence[Gate]) -> list[Gate]:
    """Failed gates on outputs that nothing else has failed."""
    failed = {gate.output for gate in gates if not gate.passed}
    return [gate for gate in found if gate.output not in failed]


def _labelled_gates(bundle: Bundle, variant: Variant, examined: Examined) -> list[Gate]:
    """The loss against the original, and what the bundle itself promises of the metric."""
    output, result = examined.output, examined.result
    lost = result.gate(variant.id, output)
    promised = [
        _judge_stored(gate, {output: result.metrics()})
        for gate in bundle.manifest.gates
        if (gate.variant, gate.output, gate.metric) == (variant.id, output, result.name)
    ]
    return promised if lost is None else [lost, *promised]


def _case_gates(bundle: Bundle, evidence: Evidence) -> list[Gate]:
    """Every tolerance of every golden case; of each output and metric the one that is nearest to its bound, or over."""
    entries = {entry.id: entry for entry in bundle.manifest.golden}
    judged: dict[tuple[str, str], list[Gate]] = {}
    for index, case in enumerate(evidence.cases):
        found = {output: items[index].metrics() for output, items in evidence.drifts.items()}
        for gate in entries[case.id].tolerances:
            if gate.variant == evidence.variant.id:
                named = replace(gate, derived_from=f"golden case {case.id}: {gate.derived_from}")
                judged.setdefault((gate.output, gate.metric), []).append(_judge_stored(named, found))
    return [max(gates, key=_closeness) for gates in judged.values()]


def _closeness(gate: Gate) -> float:
    """How near a value is to its bound; above 0 beyond it, and infinite for NaN."""
    assert gate.value is not None
    beyond = gate.value - gate.threshold if gate.op == "<=" else gate.threshold - gate.value
    return math.inf if math.isnan(beyond) else beyond


def _quality_gates(
    bundle: Bundle,
    evidence: Evidence,
    requests: Sequence[GateRequest],
    *,
    is_decided: bool,
    floors_judge_golden: bool,
) -> list[Gate]:
    """Bounds on all golden cases together, and quality gates: the user's, or those stored in the bundle.

    Gates derived from one set of texts do not bind other texts: of those measured on held-out samples only floors
    judge live data, and golden cases are held to what was measured on them. How far outputs are apart on live data does
    not judge where labelled samples have decided already.
    """
    stored = [
        gate
        for gate in bundle.manifest.gates
        if gate.variant == evidence.variant.id and gate.metric not in LABELLED_METRICS
    ]
    all_cases = _together(evidence.golden, evidence.drifts)
    gates = [_judge_stored(gate, all_cases) for gate in stored if is_golden(gate)]
    if requests:
        return gates + _requested(evidence, requests)
    floors = [gate for gate in stored if _is_floor(gate)]
    if evidence.compared is None:
        held = {gate.output for gate in gates if gate.metric.startswith(GOLDEN)}
        judging = [gate for gate in floors if floors_judge_golden and _judges_golden(gate, held)]
        return gates + [_judge_stored(gate, evidence.golden) for gate in judging]
    if is_decided:
        return gates
    return gates + [_judge_stored(gate, evidence.compared.metrics) for gate in floors]


def _requested(evidence: Evidence, requests: Sequence[GateRequest]) -> list[Gate]:
    measured = sorted({metric for metrics in evidence.metrics.values() for metric in metrics})
    check_gate_metrics(requests, measured)
    return [
        judge(Gate(evidence.variant.id, output, item.metric, item.op, item.threshold, "--gate"), metrics)
        for output, metrics in evidence.metrics.items()
        for item in requests
        if item.metric in metrics
    ]


def _is_floor(gate: Gate) -> bool:
    """Whether a gate judges other texts than those it was set on.

    The ONNX variant that the gate on parity compares with is in another bundle.
    """
    return (
        not is_golden(gate)
        and not gate.derived_from.startswith("measured")
        and gate.metric != ONNX_DIFFERENCE
    )


def _together(
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


def _judge_stored(gate: Gate, metrics: Mapping[str, Mapping[str, float]]) -> Gate:
    """A gate of the manifest, which names what its maker liked."""
    measured = metrics.get(gate.output, {})
    if gate.metric not in measured:
        raise IntegrityError(
            f"the manifest bounds {gate.metric} of `{gate.output}`, which is not measured; known are "
            f"{', '.join(measured) or 'none'}",
            hint=OLD_BOUNDS if gate.metric.removeprefix(GOLDEN) in KNOWN_METRICS else None,
        )
    return judge(gate, measured)
