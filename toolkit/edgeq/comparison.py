"""Compare variants with the original on real inputs, and hold them to their gates."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeq.bundle.manifest import Gate
from edgeq.errors import UsageError
from edgeq.metrics import (
    KNOWN_METRICS,
    LOGIT_METRICS,
    LOGIT_ROLES,
    LOWER_IS_BETTER,
    OutputComparison,
    cosines,
)
from edgeq.types import Feeds, Outputs, Precision, Role, TensorSpec

Run = Callable[[Feeds], Outputs]
"""Runs canonical feeds and returns outputs by name."""

DEFAULT_FLOORS: Mapping[Precision, float] = {
    Precision.FP32: 0.9999,
    Precision.FP16: 0.999,
    Precision.INT8: 0.97,
    Precision.INT4: 0.93,
}
"""Lowest mean cosine to the original a bundle may have when the user names no gate.

int8: stock dynamic per-tensor int8 of all-MiniLM-L6-v2 reaches 0.954; a bundle below 0.97 has lost what edgeq is for.
int4: plain round-to-nearest in blocks of 128 reaches 0.943 there.
"""
GATE_MARGIN = 2.0
"""Measured error may double (other texts, another CPU) before a derived gate fails."""
PARITY = "relative_error_to_onnx"
"""Mean relative difference between a variant and the ONNX variant that the same plan made, in one export."""
GATE_NOISE = {"cosine_mean": 1e-6, "cosine_min": 1e-5}
"""Float32 noise between runtimes, below which an error cannot be asked to stay."""


def compare_outputs(
    reference: Run,
    candidates: Mapping[str, Run],
    batches: Iterable[Feeds],
    outputs: Sequence[TensorSpec],
    on_batch: Callable[[int], None] = lambda _: None,
) -> dict[str, dict[str, OutputComparison]]:
    """Comparisons of every candidate with the reference, by candidate and output.

    One batch is held at a time. Padding is not compared.
    """
    comparisons = {name: {spec.name: OutputComparison(spec) for spec in outputs} for name in candidates}
    for feeds in batches:
        expected = reference(feeds)
        mask = feeds.get("attention_mask")
        for name, run in candidates.items():
            found = run(feeds)
            for spec in outputs:
                comparisons[name][spec.name].add(expected[spec.name], found[spec.name], mask)
        on_batch(len(next(iter(feeds.values()))))
    return comparisons


def batch_invariance(run: Run, batch: Feeds, output: str) -> float:
    """Lowest cosine between a sample's output in a padded batch and the same sample alone, unpadded.

    Args:
        run: the variant.
        batch: canonical feeds of several samples of different lengths.
        output: a per-sample output, `[batch, channels]`.
    """
    together = run(batch)[output]
    lengths = batch["attention_mask"].sum(axis=1)
    alone = [
        run({name: array[index : index + 1, : int(length)] for name, array in batch.items()})[output]
        for index, length in enumerate(lengths)
    ]
    return float(cosines(np.concatenate(alone), together).min())


@dataclass(frozen=True, slots=True)
class GateRequest:
    """A `--gate METRIC>=X`."""

    metric: str
    op: str
    threshold: float

    def __str__(self) -> str:
        """As the user wrote it."""
        return f"{self.metric}{self.op}{self.threshold:g}"


def parse_gate(text: str) -> GateRequest:
    """Read `METRIC>=X` or `METRIC<=X`.

    Raises:
        UsageError: not of that form, an unknown metric, or a bound that cannot fail.
    """
    found = re.fullmatch(r"\s*([a-z0-9_]+)\s*(>=|<=)\s*([-+0-9.eE]+)\s*", text)
    if found is None:
        raise UsageError(
            f"`{text}` is not a gate", hint="write METRIC>=X or METRIC<=X, as in cosine_mean>=0.99"
        )
    metric, op, number = found.groups()
    metric = {"cosine": "cosine_mean", "kl": "kl_mean", "sqnr": "sqnr_db"}.get(metric, metric)
    if metric not in KNOWN_METRICS:
        raise UsageError(f"unknown metric `{metric}`", hint=f"known metrics: {', '.join(KNOWN_METRICS)}")
    try:
        threshold = float(number)
    except ValueError:
        raise UsageError(f"`{number}` is not a number in the gate `{text}`") from None
    if not np.isfinite(threshold):
        raise UsageError(f"the gate `{text}` needs a finite number")
    expected = "<=" if metric in LOWER_IS_BETTER else ">="
    if op != expected:
        raise UsageError(
            f"the gate `{text}` can hardly fail: {metric} is better when {'lower' if expected == '<=' else 'higher'}",
            hint=f"write {metric}{expected}{threshold:g}",
        )
    bounded = metric.startswith("cosine") or metric == "top1_agreement"
    if bounded and not 0 <= threshold <= 1:
        raise UsageError(f"the gate `{text}` is out of range: {metric} lies between 0 and 1")
    return GateRequest(metric, op, threshold)


def gates_for(
    variant: str,
    precision: Precision,
    metrics: Mapping[str, Mapping[str, float]],
    requests: Sequence[GateRequest],
    samples: int,
) -> list[Gate]:
    """The gates of a variant with their verdicts: the user's (or the default floor), and one from what was measured.

    Args:
        variant: its id.
        precision: decides the default floor.
        metrics: measured, by output.
        requests: from `--gate`, checked by `check_gate_metrics`; empty means the default floor.
        samples: held-out samples they were measured on.
    """
    floors = list(requests) or [GateRequest("cosine_mean", ">=", DEFAULT_FLOORS[precision])]
    source = "--gate" if requests else f"default floor for {precision}"
    gates = [
        judge(Gate(variant, output, floor.metric, floor.op, floor.threshold, source), found)
        for output, found in metrics.items()
        for floor in floors
        if floor.metric in found
    ]
    for output, found in metrics.items():
        gates += [
            judge(_derived(variant, output, metric, found[metric], samples), found)
            for metric in ("cosine_mean", "cosine_min")
        ]
    return gates


def _derived(variant: str, output: str, metric: str, value: float, samples: int) -> Gate:
    error = max(1 - value, GATE_NOISE[metric])
    threshold = round(1 - GATE_MARGIN * error, 7)
    derived_from = f"measured {value:.6f} on {samples} held-out samples; {GATE_MARGIN:g}x its error"
    return Gate(variant, output, metric, ">=", threshold, derived_from)


def check_gate_metrics(requests: Sequence[GateRequest], roles: Iterable[Role]) -> None:
    """Refuse, before any work, a gate on a metric that no output of a model has.

    Raises:
        UsageError: names the metrics there are.
    """
    has_logits = any(role in LOGIT_ROLES for role in roles)
    available = [name for name in KNOWN_METRICS if has_logits or name not in LOGIT_METRICS]
    for request in requests:
        if request.metric not in available:
            raise UsageError(
                f"the gate `{request}` names a metric this task does not have",
                hint=f"it has {', '.join(available)}",
            )


def judge(gate: Gate, metrics: Mapping[str, float]) -> Gate:
    """The gate with `value` and `passed` filled in; a NaN fails."""
    value = metrics[gate.metric]
    passed = value >= gate.threshold if gate.op == ">=" else value <= gate.threshold
    return replace(gate, value=value, passed=bool(passed))
