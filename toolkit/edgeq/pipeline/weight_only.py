"""Weight-only quantization wired up: input statistics where a method needs them, the method of every layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from edgeq.graph.block_weight import BlockWeight
from edgeq.graph.streamed_tensor import is_too_large, streamed
from edgeq.quantize.cache import CalibrationCache
from edgeq.quantize.gram_parts import in_parts
from edgeq.quantize.layers import ModelLayers, layer_weight
from edgeq.quantize.plan import WeightDecision
from edgeq.quantize.recipes import LayerSpec
from edgeq.quantize.sites import EmbeddingSite, LinearSite
from edgeq.quantize.streaming.row_quantizer import ROW_METHODS, Energy, measured_rows
from edgeq.quantize.streaming.stacked_rows import StackedRows
from edgeq.quantize.streaming.weight_store import Codes, HeldCodes, WeightStore
from edgeq.quantize.stretches import QuantizedSource, Weight
from edgeq.quantize.weight_only import (
    GRAM_METHODS,
    INPUT_METHODS,
    LayerStats,
    QuantizedWeight,
    awq,
    quantize,
)
from edgeq.quantize.weight_only.base import stored_spec
from edgeq.quantize.weight_only.matmul_nbits import to_block_weight
from edgeq.types import Array, FloatArray

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.pipeline.forward.data import DataSets
    from edgeq.progress import Progress
    from edgeq.quantize.statistics import Statistics

PART_ELEMENTS = 12 << 20
"""Weights of a large model that GPTQ rounds at a time, 50 MB in each of a dozen float32 arrays."""


@dataclass(frozen=True, slots=True)
class WeightJob:
    """One weight to quantize.

    Attributes:
        name: the first layer that reads it.
        initializer: the weight.
        spec: how it is stored and by which method.
        site: where it is read as a matrix, or the table.
        inputs: activations that are multiplied with it; none for tables.
    """

    name: str
    initializer: str
    spec: LayerSpec
    site: LinearSite | EmbeddingSite
    inputs: tuple[str, ...]

    def gram_bytes(self) -> int:
        """Memory of the Gram matrices of its inputs."""
        if self.spec.method not in GRAM_METHODS:
            return 0
        channels = self.site.shape[1] if isinstance(self.site, EmbeddingSite) else self.site.shape[0]
        return 8 * channels**2 * len(self.inputs)


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedLayer:
    """A weight after quantization, with what it cost."""

    decision: WeightDecision
    codes: Codes

    @property
    def weight(self) -> QuantizedWeight:
        """The codes; those in a file are read anew each time."""
        return self.codes()

    def source(self, *, is_by_rows: bool) -> Weight:
        """The floats the codes stand for, as the graph stores them."""
        return QuantizedSource(self.codes, is_by_rows)


def weight_jobs(
    layers: ModelLayers, specs: Mapping[str, LayerSpec], kind: str = "weight-only"
) -> tuple[WeightJob, ...]:
    """The weights these specs store in a format, each once, with the most bits that a layer of it asks for."""
    sites: list[LinearSite | EmbeddingSite] = [*layers.sites.linears, *layers.sites.embeddings]
    jobs: dict[str, WeightJob] = {}
    for site in sites:
        spec = specs[site.name]
        if spec.format != kind:
            continue
        initializer = layers.initializers[site.name]
        job = WeightJob(site.name, initializer, spec_for(spec, site), site, inputs_of(site))
        before = jobs.get(initializer)
        jobs[initializer] = job if before is None else _merged(before, job)
    return tuple(jobs.values())


def inputs_of(site: LinearSite | EmbeddingSite) -> tuple[str, ...]:
    """The activation that is multiplied with a weight; a table has one where it is the output head too."""
    found = site.input if isinstance(site, LinearSite) else site.product_input
    return () if found is None else (found,)


def spec_for(spec: LayerSpec, site: LinearSite | EmbeddingSite) -> LayerSpec:
    """What a recipe's spec means for a table: these methods are the best there are without inputs to look at.

    AWQ scales a layer's input, and so cannot serve a table that is also looked up.
    """
    if isinstance(site, LinearSite) or spec.method not in GRAM_METHODS:
        return spec
    if spec.format == "palette":
        return replace(spec, method="kmeans")
    return spec if spec.method == "gptq" and inputs_of(site) else replace(spec, method="scale_search")


def _merged(first: WeightJob, second: WeightJob) -> WeightJob:
    spec = max(first.spec, second.spec, key=lambda spec: spec.bits)
    inputs = tuple(dict.fromkeys(first.inputs + second.inputs))
    site = first.site if isinstance(first.site, LinearSite) else second.site
    return replace(first, spec=spec, site=site, inputs=inputs)


def quantize_weights(
    graph: ir.Model, jobs: Sequence[WeightJob], data: DataSets, progress: Progress
) -> list[QuantizedLayer]:
    """Quantize every job's weight; layers keep the order of the jobs.

    Args:
        graph: the graph whose weights and inputs these are (equalized, where there is a static int8 part).
        jobs: from `weight_jobs`.
        data: its calibration part is used.
        progress: one stage; fallbacks become notices.
    """
    from edgeq.pipeline.sequential import is_sequential, quantize_in_turn

    store = WeightStore() if is_too_large(graph) else None
    found: dict[str, QuantizedLayer] = {}
    with progress.stage("quantizing weights", len(jobs)) as stage:
        for part in in_parts((job for job in jobs if not is_sequential(job)), WeightJob.gram_bytes):
            statistics = observe_inputs(graph, part, data, progress)
            scales = _shared_awq_scales(graph, part, statistics)
            for job in part:
                stats = stats_of(job, statistics)
                found[job.name] = quantize_job(graph, job, stats, scales.get(job.initializer), store)
                stage.advance()
        in_turn = [job for job in jobs if is_sequential(job)]

        def in_turn_job(job: WeightJob, stats: LayerStats) -> QuantizedLayer:
            return quantize_job(graph, job, stats, None, store)

        for job, layer in quantize_in_turn(graph, in_turn, found.values(), jobs, data, in_turn_job):
            found[job.name] = layer
            stage.advance()
        done = [found[job.name] for job in jobs]
        stage.note = describe(done)
    for notice in fallback_notices(layer.decision for layer in done):
        progress.notice(notice)
    return done


def describe(layers: Sequence[QuantizedLayer]) -> str:
    """`36 weights, 4.50 bits each, gptq and scale_search`."""
    sizes = [prod(layer.codes.shape) for layer in layers]
    bits = np.average([layer.decision.bits_per_weight for layer in layers], weights=sizes)
    methods = " and ".join(dict.fromkeys(layer.decision.method for layer in layers))
    return f"{len(layers)} weights, {bits:.2f} bits each, {methods}"


def fallback_notices(decisions: Iterable[WeightDecision]) -> list[str]:
    """One line per kind of fallback, with the first layer it happened to."""
    found: dict[str, list[str]] = {}
    for decision in decisions:
        for note in decision.notes:
            found.setdefault(note, []).append(decision.name)
    return [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {note}"
        for note, names in found.items()
    ]


def observe_inputs(
    graph: ir.Model, jobs: Sequence[WeightJob], data: DataSets, progress: Progress
) -> Statistics | None:
    """Statistics of the inputs that a method looks at; None when no method does."""
    from edgeq.quantize.calibrate import calibrate

    wanted = [name for job in jobs if job.spec.method in INPUT_METHODS for name in job.inputs]
    if not wanted:
        return None
    grams = {name for job in jobs if job.spec.method in GRAM_METHODS for name in job.inputs}
    if is_too_large(graph):
        from edgeq.pipeline.sequential import observe_in_turn

        return observe_in_turn(graph, wanted, grams, data)
    cache = CalibrationCache(notify=progress.notice)
    return calibrate(graph, tuple(dict.fromkeys(wanted)), data.calibration, cache=cache, gram=grams)


def stats_of(job: WeightJob, statistics: Statistics | None) -> LayerStats | None:
    """What calibration saw of a job's inputs, all of them together."""
    if statistics is None or not job.inputs or job.spec.method not in INPUT_METHODS:
        return None
    found = statistics[job.inputs[0]]
    for name in job.inputs[1:]:
        found = found.merge(statistics[name])
    return LayerStats(found.channel_mean_square.astype(np.float32), found.rows, found.gram)


def _shared_awq_scales(
    graph: ir.Model, jobs: Sequence[WeightJob], statistics: Statistics | None
) -> dict[str, FloatArray]:
    """AWQ's input scales by initializer: layers that read one activation (q, k, v) share the division."""
    groups: dict[tuple[tuple[str, ...], LayerSpec], list[WeightJob]] = {}
    for job in jobs:
        if job.spec.method == "awq":
            groups.setdefault((job.inputs, job.spec), []).append(job)
    found: dict[str, FloatArray] = {}
    for group in groups.values():
        weights = [layer_weight(graph, job.site) for job in group]
        scales = awq.search_input_scales(weights, group[0].spec.weight_spec(), stats_of(group[0], statistics))
        found |= {job.initializer: scales for job in group}
    return found


def quantize_job(
    graph: ir.Model,
    job: WeightJob,
    stats: LayerStats | None,
    awq_scales: FloatArray | None,
    store: WeightStore | None,
) -> QuantizedLayer:
    """One weight of a graph by the job's method; with a store in bounded memory, and the codes there."""
    matrix = streamed(graph.graph.initializers[job.initializer])
    if store is not None and awq_scales is None and isinstance(matrix, StackedRows):
        if job.spec.method in ROW_METHODS:
            return quantize_by_rows(job, matrix, stats, store)
        parts = _parts_of(job, matrix)
        if len(parts) > 1:
            return quantize_in_parts(job, parts, stats, store)
    layer = quantize_layer(job, layer_weight(graph, job.site), stats, awq_scales)
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
    return parts if len({stored_spec(peak, job.spec.weight_spec()) for peak in peaks}) == 1 else [rows]


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
            piece = quantize(job.spec.method, weight, job.spec.weight_spec(), stats)
            total += energy_of(weight, piece.dequantize(), stats)
            found.append(piece.select([0]))
            yield to_block_weight(piece)

    codes = store.add_rows(pieces(), sum(int(part.shape.numpy()[0]) for part in parts), job.spec.method)
    first = found[0]
    codes = replace(codes, method=first.method, notes=first.notes)
    return QuantizedLayer(_decision(job, first, total, has_inputs=_is_known(stats)), codes)


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
    spec = job.spec.weight_spec().fitted(job.site.shape[0])
    first = replace(first, spec=replace(spec, scale_dtype=first.spec.scale_dtype))
    return QuantizedLayer(_decision(job, first, total, has_inputs=_is_known(stats)), codes)


def quantize_layer(
    job: WeightJob, weight: Array, stats: LayerStats | None, awq_scales: FloatArray | None = None
) -> QuantizedLayer:
    """One weight `[in, out]` by the job's method, and its error."""
    spec = job.spec.weight_spec()
    if awq_scales is not None:
        found = awq.quantize_scaled(weight, spec, stats, awq_scales)
    else:
        found = quantize(job.spec.method, weight, spec, stats)
    energy = energy_of(weight, found.dequantize(), stats)
    return QuantizedLayer(_decision(job, found, energy, has_inputs=_is_known(stats)), HeldCodes(found))


def _decision(job: WeightJob, found: QuantizedWeight, energy: Energy, *, has_inputs: bool) -> WeightDecision:
    of_output = _rounded(_ratio(energy.output_noise, energy.output_signal)) if has_inputs else None
    return WeightDecision(
        name=job.name,
        initializer=job.initializer,
        bits=found.spec.bits,
        block_size=found.spec.block_size,
        symmetric=found.spec.symmetric,
        method=found.method,
        bits_per_weight=round(found.bits_per_weight, 4),
        weight_error=_rounded(_ratio(energy.noise, energy.signal)),
        output_error=of_output,
        notes=found.notes,
    )


def errors_of(weight: Array, found: Array, stats: LayerStats | None) -> tuple[float, float | None]:
    """Relative error of a weight `[in, out]`, and of the layer's output where its inputs were observed."""
    energy = energy_of(weight, found, stats)
    of_output = _rounded(_ratio(energy.output_noise, energy.output_signal)) if _is_known(stats) else None
    return _rounded(_ratio(energy.noise, energy.signal)), of_output


def _is_known(stats: LayerStats | None) -> bool:
    """Of inputs that are NaN or infinite nothing can be said; the fallback's note says that they are."""
    return stats is not None and bool(
        np.isfinite(stats.mean_square if stats.gram is None else stats.gram).all()
    )


def energy_of(weight: Array, found: Array, stats: LayerStats | None) -> Energy:
    """What rounding a weight `[in, out]` cost, and its output over the calibration inputs where there are any."""
    error = found - weight
    of_weight = float(np.square(error).sum()), float(np.square(weight).sum())
    if stats is None or not _is_known(stats):
        return Energy(*of_weight)
    return Energy(*of_weight, *_output_energy(weight, error, stats))


def _output_energy(weight: Array, error: Array, stats: LayerStats) -> tuple[float, float]:
    """`|X E|^2` and `|X W|^2`; without X^T X as if channels were uncorrelated."""
    if stats.gram is not None:
        gram = np.asarray(stats.gram, np.float32)
        noise = np.einsum("kn,kn->", error, gram @ error, dtype=np.float64)
        signal = np.einsum("kn,kn->", weight, gram @ weight, dtype=np.float64)
    else:
        squares = stats.mean_square[:, None]
        noise, signal = np.sum(np.square(error) * squares), np.sum(np.square(weight) * squares)
    return float(noise), float(signal)


def _ratio(noise: float, signal: float) -> float:
    """Square root of a ratio of energies; a weight of zeros that stays zeros has no error."""
    if signal > 0:
        return float(np.sqrt(max(float(noise), 0.0) / float(signal)))
    return 0.0 if noise <= 0 else float("inf")


def _rounded(value: float) -> float:
    """Seven digits: the plan's bytes must not hang on the last bits of a sum."""
    return float(f"{value:.7g}")
