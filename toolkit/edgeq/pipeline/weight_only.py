"""Weight-only quantization wired up: input statistics where a method needs them, the method of every layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgeq.quantize.cache import CalibrationCache
from edgeq.quantize.layers import ModelLayers, layer_weight
from edgeq.quantize.plan import WeightDecision
from edgeq.quantize.recipes import LayerSpec
from edgeq.quantize.sites import EmbeddingSite, LinearSite
from edgeq.quantize.weight_only import LayerStats, QuantizedWeight, awq, quantize
from edgeq.types import Array, FloatArray

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.pipeline.data import DataSets
    from edgeq.progress import Progress
    from edgeq.quantize.statistics import Statistics

GRAM_METHODS = frozenset({"gptq", "awq"})
INPUT_METHODS = GRAM_METHODS | {"scale_search", "kmeans"}
GRAM_BYTES = 512 << 20
"""Gram matrices held at a time; more layers than fit are calibrated in several passes."""


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

    @property
    def gram_bytes(self) -> int:
        """Memory of the Gram matrices of its inputs."""
        if self.spec.method not in GRAM_METHODS:
            return 0
        return sum(8 * self.site.shape[0] ** 2 for _ in self.inputs)


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedLayer:
    """A weight after quantization, with what it cost."""

    decision: WeightDecision
    weight: QuantizedWeight

    def dequantize(self) -> FloatArray:
        """What the codes stand for, `[in, out]`."""
        return self.weight.dequantize()


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
        inputs = (site.input,) if isinstance(site, LinearSite) else ()
        job = WeightJob(site.name, initializer, _for_site(spec, site), site, inputs)
        before = jobs.get(initializer)
        jobs[initializer] = job if before is None else _merged(before, job)
    return tuple(jobs.values())


def _for_site(spec: LayerSpec, site: LinearSite | EmbeddingSite) -> LayerSpec:
    """A table has no input statistics: these methods are the best there are without them."""
    if isinstance(site, LinearSite) or spec.method not in GRAM_METHODS:
        return spec
    return replace(spec, method="kmeans" if spec.format == "palette" else "scale_search")


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

    found: dict[str, QuantizedLayer] = {}
    with progress.stage("quantizing weights", len(jobs)) as stage:
        for part in in_memory([job for job in jobs if not is_sequential(job)]):
            statistics = observe_inputs(graph, part, data, progress)
            scales = _shared_awq_scales(graph, part, statistics)
            for job in part:
                found[job.name] = _quantize(graph, job, statistics, scales.get(job.initializer))
                stage.advance()
        in_turn = [job for job in jobs if is_sequential(job)]
        for job, layer in quantize_in_turn(graph, in_turn, found.values(), jobs, data, quantize_layer):
            found[job.name] = layer
            stage.advance()
        done = [found[job.name] for job in jobs]
        stage.note = describe(done)
    for notice in fallback_notices(layer.decision for layer in done):
        progress.notice(notice)
    return done


def describe(layers: Sequence[QuantizedLayer]) -> str:
    """`36 weights, 4.50 bits each, gptq and scale_search`."""
    sizes = [layer.weight.in_features * layer.weight.out_features for layer in layers]
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


def in_memory(jobs: Sequence[WeightJob]) -> Iterator[list[WeightJob]]:
    """Jobs in order, in parts whose Gram matrices fit `GRAM_BYTES`."""
    part: list[WeightJob] = []
    held = 0
    for job in jobs:
        if part and held + job.gram_bytes > GRAM_BYTES:
            yield part
            part, held = [], 0
        part.append(job)
        held += job.gram_bytes
    if part:
        yield part


def observe_inputs(
    graph: ir.Model, jobs: Sequence[WeightJob], data: DataSets, progress: Progress
) -> Statistics | None:
    """Statistics of the inputs that a method looks at; None when no method does."""
    from edgeq.quantize.calibrate import calibrate

    wanted = [name for job in jobs if job.spec.method in INPUT_METHODS for name in job.inputs]
    if not wanted:
        return None
    grams = {name for job in jobs if job.spec.method in GRAM_METHODS for name in job.inputs}
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


def _quantize(
    graph: ir.Model, job: WeightJob, statistics: Statistics | None, awq_scales: FloatArray | None
) -> QuantizedLayer:
    weight = layer_weight(graph, job.site)
    return quantize_layer(job, weight, stats_of(job, statistics), awq_scales)


def quantize_layer(
    job: WeightJob, weight: Array, stats: LayerStats | None, awq_scales: FloatArray | None = None
) -> QuantizedLayer:
    """One weight `[in, out]` by the job's method, and its error."""
    spec = job.spec.weight_spec()
    if awq_scales is not None:
        found = awq.quantize_scaled(weight, spec, stats, awq_scales)
    else:
        found = quantize(job.spec.method, weight, spec, stats)
    weight_error, of_output = errors_of(weight, found.dequantize(), stats)
    decision = WeightDecision(
        name=job.name,
        initializer=job.initializer,
        bits=found.spec.bits,
        block_size=found.spec.block_size,
        symmetric=found.spec.symmetric,
        method=found.method,
        bits_per_weight=round(found.bits_per_weight, 4),
        weight_error=weight_error,
        output_error=of_output,
        notes=found.notes,
    )
    return QuantizedLayer(decision, found)


def errors_of(weight: Array, found: Array, stats: LayerStats | None) -> tuple[float, float | None]:
    """Relative error of a weight `[in, out]`, and of the layer's output where its inputs were observed."""
    error = found - weight
    of_weight = _rounded(_ratio(np.square(error).sum(), np.square(weight).sum()))
    return of_weight, None if stats is None else _rounded(output_error(weight, error, stats))


def output_error(weight: Array, error: Array, stats: LayerStats) -> float:
    """`|X E| / |X W|` over the calibration inputs; without their Gram matrix as if channels were uncorrelated."""
    if stats.gram is not None:
        gram = np.asarray(stats.gram, np.float32)
        noise = np.einsum("kn,kn->", error, gram @ error, dtype=np.float64)
        signal = np.einsum("kn,kn->", weight, gram @ weight, dtype=np.float64)
    else:
        squares = stats.mean_square[:, None]
        noise, signal = np.sum(np.square(error) * squares), np.sum(np.square(weight) * squares)
    return _ratio(noise, signal)


def _ratio(noise: float, signal: float) -> float:
    """Square root of a ratio of energies; a weight of zeros that stays zeros has no error."""
    if signal > 0:
        return float(np.sqrt(max(float(noise), 0.0) / float(signal)))
    return 0.0 if noise <= 0 else float("inf")


def _rounded(value: float) -> float:
    """Seven digits: the plan's bytes must not hang on the last bits of a sum."""
    return float(f"{value:.7g}")
