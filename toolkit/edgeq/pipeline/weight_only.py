"""Weights quantized to blocks: whole, some output channels at a time, or by rows into a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from edgeq.graph.block_weight import BlockWeight
from edgeq.graph.streamed_tensor import is_too_large, streamed
from edgeq.pipeline.drive_weights import quantize_jobs, stats_of
from edgeq.pipeline.weight_jobs import WeightJob
from edgeq.quantize.layers import layer_weight
from edgeq.quantize.plan import WeightDecision
from edgeq.quantize.recipes import LayerSpec
from edgeq.quantize.segmented import QuantizedSource, Weight
from edgeq.quantize.sites import LinearSite
from edgeq.quantize.streaming.row_quantizer import measured_rows
from edgeq.quantize.streaming.stacked_rows import StackedRows
from edgeq.quantize.streaming.weight_store import Codes, HeldCodes, WeightStore
from edgeq.quantize.weight_errors import Energy, energy_of, is_known
from edgeq.quantize.weight_only import LayerStats, QuantizedWeight, awq, quantize
from edgeq.quantize.weight_only.matmul_nbits import to_block_weight
from edgeq.quantize.weight_only.quantized_weight import stored_spec
from edgeq.types import Array, FloatArray

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.pipeline.forward.data import DataSets
    from edgeq.progress import Progress
    from edgeq.quantize.statistics import Statistics

PART_ELEMENTS = 12 << 20
"""Weights of a large model that GPTQ rounds at a time, 50 MB in each of a dozen float32 arrays."""


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedLayer:
    """A weight after quantization, with what it cost."""

    decision: WeightDecision
    codes: Codes

    @property
    def size(self) -> int:
        """Number of weights."""
        return prod(self.codes.shape)

    @property
    def weight(self) -> QuantizedWeight:
        """The codes; those in a file are read anew each time."""
        return self.codes()

    def source(self, *, is_by_rows: bool) -> Weight:
        """The floats the codes stand for, as the graph stores them."""
        return QuantizedSource(self.codes, is_by_rows)


def quantize_weights(
    graph: ir.Model, jobs: Sequence[WeightJob], data: DataSets, progress: Progress
) -> list[QuantizedLayer]:
    """Quantize every job's weight to blocks; see `drive_weights.quantize_jobs`."""
    quantizer = _BlockQuantizer(graph, WeightStore() if is_too_large(graph) else None)
    return quantize_jobs(graph, jobs, quantizer, "quantizing weights", data, progress)


@dataclass(slots=True)
class _BlockQuantizer:
    """Blocks; the codes of a large model go to a store.

    Attributes:
        graph: whose weights are quantized.
        store: None where codes are held in memory.
        input_scales: AWQ's, by initializer.
    """

    graph: ir.Model
    store: WeightStore | None
    input_scales: dict[str, FloatArray] = field(default_factory=dict)

    def prepare(self, jobs: Sequence[WeightJob], statistics: Statistics | None) -> None:
        """Find scales of inputs: layers that read one activation (q, k, v) share the division."""
        groups: dict[tuple[tuple[str, ...], LayerSpec], list[WeightJob]] = {}
        for job in jobs:
            if job.method.scales_inputs:
                groups.setdefault((job.inputs, job.spec), []).append(job)
        for group in groups.values():
            weights = [layer_weight(self.graph, job.site) for job in group]
            stats = stats_of(group[0], statistics)
            scales = awq.search_input_scales(weights, group[0].spec.blocks(), stats)
            self.input_scales |= {job.initializer: scales for job in group}

    def quantize(self, job: WeightJob, stats: LayerStats | None) -> QuantizedLayer:
        """One weight by the job's method."""
        return quantize_job(self.graph, job, stats, self.input_scales.get(job.initializer), self.store)


def quantize_job(
    graph: ir.Model,
    job: WeightJob,
    stats: LayerStats | None,
    input_scales: FloatArray | None,
    store: WeightStore | None,
) -> QuantizedLayer:
    """One weight of a graph by the job's method; with a store in bounded memory, and the codes there."""
    matrix = streamed(graph.graph.initializers[job.initializer])
    if store is not None and input_scales is None and isinstance(matrix, StackedRows):
        if job.method.by_rows:
            return quantize_by_rows(job, matrix, stats, store)
        parts = _parts_of(job, matrix)
        if len(parts) > 1:
            return quantize_in_parts(job, parts, stats, store)
    layer = quantize_layer(job, layer_weight(graph, job.site), stats, input_scales)
    return layer if store is None else replace(layer, codes=store.add(layer.weight))


def _parts_of(job: WeightJob, matrix: StackedRows) -> list[StackedRows]:
    """A large weight as groups of output channels, `[out, in]` each; one where they would store scales differently."""
    by_columns = isinstance(job.site, LinearSite) and not job.site.transposed
    rows = matrix.transposed() if by_columns else matrix
    count, width = rows.shape.numpy()
    step = max(1, PART_ELEMENTS // width)
    if rows.is_turned or step >= count:
        return [rows]
    parts = [rows.part(start, min(start + step, count)) for start in range(0, count, step)]
    peaks = (np.array([[part.peak()]], np.float32) for part in parts)
    return parts if len({stored_spec(peak, job.spec.blocks()) for peak in peaks}) == 1 else [rows]


def quantize_in_parts(
    job: WeightJob, parts: Sequence[StackedRows], stats: LayerStats | None, store: WeightStore
) -> QuantizedLayer:
    """`quantize_layer` of a weight, some output channels after others."""
    total = Energy()
    found: list[QuantizedWeight] = []

    def pieces() -> Iterator[BlockWeight]:
        nonlocal total
        for part in parts:
            weight = np.ascontiguousarray(part.values().T)
            piece = quantize(job.spec.method, weight, job.spec.blocks(), stats)
            total += energy_of(weight, piece.dequantize(), stats)
            found.append(piece.select([0]))
            yield to_block_weight(piece)

    codes = store.add_rows(pieces(), sum(int(part.shape.numpy()[0]) for part in parts), job.spec.method)
    first = found[0]
    codes = replace(codes, method=first.method, notes=first.notes)
    return QuantizedLayer(decision_of(job, first, total, has_inputs=is_known(stats)), codes)


def quantize_by_rows(
    job: WeightJob, matrix: StackedRows, stats: LayerStats | None, store: WeightStore
) -> QuantizedLayer:
    """`quantize_layer` of a weight that is read, quantized and stored some output channels at a time."""
    by_columns = isinstance(job.site, LinearSite) and not job.site.transposed
    rows = int(matrix.shape.numpy()[1 if by_columns else 0])
    total = Energy()

    def pieces() -> Iterator[BlockWeight]:
        nonlocal total
        for block, energy in measured_rows(matrix, job.spec, transposed=by_columns, stats=stats):
            total += energy
            yield block

    codes = store.add_rows(pieces(), rows, job.spec.method)
    first = codes([0])
    spec = job.spec.blocks().fitted(job.site.shape[0])
    first = replace(first, spec=replace(spec, scale_dtype=first.spec.scale_dtype))
    return QuantizedLayer(decision_of(job, first, total, has_inputs=is_known(stats)), codes)


def quantize_layer(
    job: WeightJob, weight: Array, stats: LayerStats | None, input_scales: FloatArray | None = None
) -> QuantizedLayer:
    """One weight `[in, out]` by the job's method, and its error."""
    spec = job.spec.blocks()
    if input_scales is not None:
        found = awq.quantize_scaled(weight, spec, stats, input_scales)
    else:
        found = quantize(job.spec.method, weight, spec, stats)
    energy = energy_of(weight, found.dequantize(), stats)
    return QuantizedLayer(decision_of(job, found, energy, has_inputs=is_known(stats)), HeldCodes(found))


def decision_of(
    job: WeightJob, found: QuantizedWeight, energy: Energy, *, has_inputs: bool = False
) -> WeightDecision:
    """What became of a weight, and what it cost.

    Args:
        job: the weight.
        found: its codes, or some rows of them.
        energy: of all of them.
        has_inputs: the layer's inputs were observed.
    """
    return WeightDecision(
        name=job.name,
        initializer=job.initializer,
        bits=found.spec.bits,
        block_size=found.spec.block_size,
        symmetric=found.zero_points is None and found.offsets is None,
        method=found.method,
        bits_per_weight=round(found.bits_per_weight, 4),
        weight_error=energy.weight_error,
        output_error=energy.output_error if has_inputs else None,
        notes=found.notes,
    )
