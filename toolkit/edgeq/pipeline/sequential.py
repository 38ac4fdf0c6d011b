"""GPTQ layer by layer: each layer sees what the ones quantized before it leave, and aims at the original's output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from edgeq.pipeline.weight_only import WeightJob
from edgeq.quantize.layers import layer_weight
from edgeq.quantize.plan import WeightDecision
from edgeq.quantize.side_by_side import SideBySide
from edgeq.quantize.sites import LinearSite
from edgeq.quantize.weight_only import LayerStats
from edgeq.types import Array, FloatArray

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.pipeline.data import DataSets


class Layer(Protocol):
    """A weight after quantization, in whatever format."""

    @property
    def decision(self) -> WeightDecision:
        """What it is and what it cost."""

    def dequantize(self) -> FloatArray:
        """What it stands for, `[in, out]`."""


L = TypeVar("L", bound=Layer)


def is_sequential(job: WeightJob) -> bool:
    """Whether a job waits for the layers before it: GPTQ on a weight that one layer reads.

    A weight that several layers share has several places in the order, and is quantized beforehand.
    """
    return job.spec.method == "gptq" and isinstance(job.site, LinearSite) and len(job.inputs) == 1


def quantize_in_turn(
    graph: ir.Model,
    jobs: Sequence[WeightJob],
    done: Iterable[L],
    every: Sequence[WeightJob],
    data: DataSets,
    quantize: Callable[[WeightJob, Array, LayerStats], L],
) -> Iterator[tuple[WeightJob, L]]:
    """Quantize sequential jobs in the order in which the graph runs them.

    Args:
        graph: as for `quantize_weights`.
        jobs: those of `is_sequential`.
        done: what was quantized beforehand; the layers here see it.
        every: all jobs.
        data: its calibration part is run once through each version.
        quantize: one weight `[in, out]` by a job's method.
    """
    if not jobs:
        return
    sites = {job.initializer: job.site for job in every}
    with SideBySide(graph, sites, data.calibration) as runs:
        for layer in done:
            _replace(runs, sites[layer.decision.initializer], layer)
        for group in _groups(graph, jobs):
            runs.advance(group[0].name)
            stats = _statistics(runs, group[0].inputs[0])
            for job in group:
                layer = quantize(job, layer_weight(graph, job.site), stats)
                _replace(runs, job.site, layer)
                yield job, layer


def _groups(graph: ir.Model, jobs: Sequence[WeightJob]) -> list[list[WeightJob]]:
    """Jobs that read the same activation, in graph order."""
    order = {str(node.name): index for index, node in enumerate(graph.graph)}
    groups: dict[str, list[WeightJob]] = {}
    for job in sorted(jobs, key=lambda job: order[job.name]):
        groups.setdefault(job.inputs[0], []).append(job)
    return list(groups.values())


def _statistics(runs: SideBySide, tensor: str) -> LayerStats:
    """X^T X and X^T R of a layer's input X, R being the same input in the original."""
    gram: Array | None = None
    cross: Array | None = None
    tokens = 0
    for before, after in runs.rows(tensor):
        # Products of one batch in float32, their sum over batches in float64.
        own, mixed = after.T @ after, after.T @ before
        gram = own.astype(np.float64) if gram is None else gram + own
        cross = mixed.astype(np.float64) if cross is None else cross + mixed
        tokens += len(after)
    assert gram is not None
    mean_square: FloatArray = (np.diag(gram) / max(tokens, 1)).astype(np.float32)
    return LayerStats(mean_square, tokens, gram, cross)


def _replace(runs: SideBySide, site: LinearSite | object, layer: Layer) -> None:
    weight = layer.dequantize()
    flipped = not isinstance(site, LinearSite) or site.transposed
    runs.replace(layer.decision.initializer, weight.T if flipped else weight)
