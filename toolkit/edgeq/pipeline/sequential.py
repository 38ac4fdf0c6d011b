"""GPTQ layer by layer: each layer sees what the ones quantized before it leave, and aims at the original's output."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from edgeq.graph.streamed_tensor import is_too_large
from edgeq.pipeline.weight_jobs import WeightJob
from edgeq.quantize.observers.tensor import TensorStatistics, tensor_statistics
from edgeq.quantize.plan import WeightDecision
from edgeq.quantize.segmented import Weight
from edgeq.quantize.side_by_side import RAM_BYTES, SideBySide
from edgeq.quantize.sites import LinearSite
from edgeq.quantize.statistics import Statistics
from edgeq.quantize.weight_only import LayerStats
from edgeq.types import Array, FloatArray

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.pipeline.forward.data import DataSets

ROWS = 2048
"""Tokens in one product of float32."""
WIDE = 4096
"""Inputs of a layer above which X^T X and X^T R are held in float32: 130 MB each for 5632, and LAPACK needs as much
again several times. At most 256 batches are summed, whose rounding is far below the damping."""
STREAMED_RAM_BYTES = 64 << 20
"""Hidden states of either version held in memory while the weights of a large model are streamed."""


class Layer(Protocol):
    """A weight after quantization, in whatever format."""

    @property
    def decision(self) -> WeightDecision:
        """What it is and what it cost."""

    @property
    def size(self) -> int:
        """Number of weights."""

    def source(self, *, is_by_rows: bool) -> Weight:
        """The floats it stands for, as the graph stores them: `[in, out]`, by rows `[out, in]`."""


L = TypeVar("L", bound=Layer)


def is_sequential(job: WeightJob) -> bool:
    """Whether a job waits for the layers before it, as GPTQ does on a weight that one layer reads.

    A weight that several layers share has several places in the order, and is quantized beforehand.
    """
    return job.method.in_turn and isinstance(job.site, LinearSite) and len(job.inputs) == 1


def quantize_in_turn(
    graph: ir.Model,
    jobs: Sequence[WeightJob],
    done: Iterable[L],
    every: Sequence[WeightJob],
    data: DataSets,
    quantize: Callable[[WeightJob, LayerStats], L],
) -> Iterator[tuple[WeightJob, L]]:
    """Quantize sequential jobs in the order in which the graph runs them.

    Args:
        graph: as for `quantize_weights`.
        jobs: those of `is_sequential`.
        done: what was quantized beforehand; the layers here see it.
        every: all jobs.
        data: its calibration part is run once through each version.
        quantize: the weight of a job by its method.
    """
    if not jobs:
        return
    sites = {job.initializer: job.site for job in every}
    with SideBySide(
        graph, sites, data.calibration, ram_bytes=_ram_bytes(graph), padding=data.padding
    ) as runs:
        for layer in done:
            _replace(runs, sites[layer.decision.initializer], layer)
        for group in _groups(graph, jobs):
            runs.advance(group[0].name)
            stats = _statistics(runs, group[0].inputs[0])
            for job in group:
                layer = quantize(job, stats)
                _replace(runs, job.site, layer)
                yield job, layer


def observe_in_turn(
    graph: ir.Model, tensors: Iterable[str], grams: Collection[str], data: DataSets
) -> Statistics:
    """What `calibrate` finds, of a graph whose weights are never in memory together.

    Args:
        graph: as for `quantize_weights`.
        tensors: inputs of layers.
        grams: those whose Gram matrix is wanted.
        data: its calibration part is run once.
    """
    wanted, found = dict.fromkeys(tensors), dict[str, TensorStatistics]()
    with SideBySide(graph, (), data.calibration, ram_bytes=_ram_bytes(graph), padding=data.padding) as runs:
        for node in graph.graph:
            for name in [value.name for value in node.inputs if value is not None and value.name in wanted]:
                if name in found:
                    continue
                runs.advance(str(node.name))
                for rows, _ in runs.rows(str(name)):
                    seen = tensor_statistics(rows, gram=name in grams)
                    before = found.get(str(name))
                    found[str(name)] = seen if before is None else before.merge(seen)
    return Statistics(found)


def _ram_bytes(graph: ir.Model) -> int:
    """Hidden states held in memory; the rest lies in a file."""
    return STREAMED_RAM_BYTES if is_too_large(graph) else RAM_BYTES


def _groups(graph: ir.Model, jobs: Sequence[WeightJob]) -> list[list[WeightJob]]:
    """Jobs that read the same activation, in graph order."""
    order = {str(node.name): index for index, node in enumerate(graph.graph)}
    groups: dict[str, list[WeightJob]] = {}
    for job in sorted(jobs, key=lambda job: order[job.name]):
        groups.setdefault(job.inputs[0], []).append(job)
    return list(groups.values())


def _statistics(runs: SideBySide, tensor: str) -> LayerStats:
    """X^T X and X^T R of a layer's input X, R being the same input in the original."""
    from scipy.linalg.blas import ssyrk

    sums: list[Array] = []
    tokens = 0
    for before, after in _joined(runs.rows(tensor)):
        if not sums:
            # Products in float32, their sums in float64; of wide layers in float32 too.
            wide = after.shape[1] > WIDE
            sums = [np.zeros(2 * after.shape[1:], np.float32 if wide else np.float64) for _ in range(2)]
        # Of X^T X one triangle is enough.
        sums[0] += ssyrk(1.0, after.T)
        sums[1] += after.T @ before
        tokens += len(after)
    gram, cross = sums
    for row in range(1, len(gram)):
        gram[row, :row] = gram[:row, row]
    mean_square: FloatArray = (np.diag(gram) / max(tokens, 1)).astype(np.float32)
    return LayerStats(mean_square, tokens, gram, cross)


def _joined(batches: Iterable[tuple[Array, Array]]) -> Iterator[tuple[Array, Array]]:
    """Batches put together to at least `ROWS` rows: fewer sums of large matrices."""
    held: list[tuple[Array, Array]] = []
    for pair in batches:
        held.append(pair)
        if sum(len(before) for before, _ in held) >= ROWS:
            yield _concatenated(held)
            held = []
    if held:
        yield _concatenated(held)


def _concatenated(pairs: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))
    return np.concatenate(first), np.concatenate(second)


def _replace(runs: SideBySide, site: LinearSite | object, layer: Layer) -> None:
    is_by_rows = not isinstance(site, LinearSite) or site.transposed
    runs.replace(layer.decision.initializer, layer.source(is_by_rows=is_by_rows))
