"""Compare variants with the original on real inputs, and hold them to their gates."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeq.bundle.manifest import Gate
from edgeq.errors import UsageError
from edgeq.graph.component import Padding
from edgeq.metrics import KNOWN_METRICS, LOWER_IS_BETTER, SHARES, cosines
from edgeq.tasks import Head, TaskEntry
from edgeq.tasks.compared import TaskComparison
from edgeq.tasks.tokens import Tokens
from edgeq.types import Feeds, Outputs, Precision

Run = Callable[[Feeds], Outputs]
"""Runs canonical feeds and returns outputs by name."""

DEFAULT = "default floor"
"""How the origin of a floor begins that no user asked for."""
GATE_MARGIN = 2.0
"""Measured error may double (other texts, another CPU) before a derived gate fails."""
ONNX_DIFFERENCE = "relative_error_to_onnx"
"""Mean relative difference between a variant and the ONNX variant that the same plan made, in one export."""
GATE_NOISE = {"cosine_mean": 1e-6, "cosine_min": 1e-5}
"""Float32 noise between runtimes, below which an error cannot be asked to stay."""


def compare_outputs(
    reference: Run,
    candidates: Mapping[str, Run],
    batches: Iterable[Feeds],
    head: Head,
    on_batch: Callable[[int], None] = lambda _: None,
) -> dict[str, TaskComparison]:
    """Comparisons of every candidate with the reference.

    One batch is held at a time. Padding is not compared.
    """
    comparisons = {name: head.compare() for name in candidates}
    for feeds in batches:
        expected, tokens = reference(feeds), Tokens.of_feeds(feeds)
        for name, run in candidates.items():
            comparisons[name].add(expected, run(feeds), tokens)
        on_batch(len(next(iter(feeds.values()))))
    return comparisons


def batch_invariance(run: Run, batch: Feeds, output: str, padding: Padding) -> float:
    """Lowest cosine between a sample's output in a padded batch and the same sample alone, unpadded.

    Args:
        run: the variant.
        batch: canonical feeds of several samples of different lengths.
        output: a per-sample output, `[batch, channels]`.
        padding: says how long each sample is.

    Raises:
        ValueError: the batch has no mask.
    """
    mask = padding.mask(batch)
    if mask is None:
        raise ValueError(f"the batch has no `{padding.mask_input}`")
    together = run(batch)[output]
    lengths = mask.sum(axis=1)
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
    """Read `METRIC=X`, where X is the worst that passes, or the same as `METRIC>=X` or `METRIC<=X`.

    Raises:
        UsageError: not of that form, an unknown metric, or a bound that cannot fail.
    """
    found = re.fullmatch(r"\s*([a-z0-9_]+)\s*(>=|<=|=)\s*([-+0-9.eE]+)\s*", text)
    if found is None:
        raise UsageError(
            f"`{text}` is not a gate",
            hint='write METRIC=X, as in cosine_mean=0.99, or in quotes "cosine_mean>=0.99": '
            "a shell takes a bare > or < for a file",
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
    if op not in (expected, "="):
        raise UsageError(
            f"the gate `{text}` can hardly fail: {metric} is better when {'lower' if expected == '<=' else 'higher'}",
            hint=f"write {metric}={threshold:g}",
        )
    bounded = metric.startswith("cosine") or metric in SHARES
    if bounded and not 0 <= threshold <= 1:
        raise UsageError(f"the gate `{text}` is out of range: {metric} lies between 0 and 1")
    return GateRequest(metric, expected, threshold)


def gates_for(
    variant: str,
    precision: Precision,
    metrics: Mapping[str, Mapping[str, float]],
    requests: Sequence[GateRequest],
    samples: int,
    entry: TaskEntry,
) -> list[Gate]:
    """The gates of a variant with their verdicts: the user's (or the default floors), and those from what was measured.

    Args:
        variant: its id.
        precision: decides the default floors.
        metrics: measured, by output.
        requests: from `--gate`, checked by `check_gate_metrics`; empty means the default floors.
        samples: held-out samples they were measured on.
        entry: of the model's kind.

    Raises:
        UsageError: a request is for what nothing was measured of.
    """
    check_gate_metrics(requests, sorted({metric for found in metrics.values() for metric in found}))
    floors = list(requests) or default_floors(entry, precision)
    source = "--gate" if requests else f"{DEFAULT} for {precision}"
    gates = [
        judge(Gate(variant, output, floor.metric, floor.op, floor.threshold, source), found)
        for output, found in metrics.items()
        for floor in floors
        if floor.metric in found
    ]
    for output, found in metrics.items():
        gates += [
            judge(_derived(variant, output, metric, found[metric], samples), found)
            for metric in entry.derived
        ]
    return gates


def default_floors(entry: TaskEntry, precision: Precision) -> list[GateRequest]:
    """On the mean and on the tail, where the user names no gate."""
    return [GateRequest(floor.metric, floor.op, floor.thresholds[precision]) for floor in entry.floors]


def _derived(variant: str, output: str, metric: str, value: float, samples: int) -> Gate:
    error = max(1 - value, GATE_NOISE[metric])
    threshold = round(1 - GATE_MARGIN * error, 7)
    derived_from = f"measured {value:.6f} on {samples} held-out samples; {GATE_MARGIN:g}x its error"
    return Gate(variant, output, metric, ">=", threshold, derived_from)


def check_gate_metrics(requests: Sequence[GateRequest], available: Collection[str]) -> None:
    """Refuse a gate on a metric that a model does not have.

    Raises:
        UsageError: names the metrics there are.
    """
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
