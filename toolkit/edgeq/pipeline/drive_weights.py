"""A recipe's weights quantized one after the other: input statistics where a method needs them, GPTQ layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from edgeq.graph.streamed_tensor import is_too_large
from edgeq.pipeline.sequential import Layer, is_sequential, observe_in_turn, quantize_in_turn
from edgeq.pipeline.weight_jobs import WeightJob
from edgeq.quantize.cache import CalibrationCache
from edgeq.quantize.calibrate import calibrate
from edgeq.quantize.gram_parts import in_parts
from edgeq.quantize.methods import Needs
from edgeq.quantize.plan import WeightDecision
from edgeq.quantize.weight_only import LayerStats

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.pipeline.forward.data import DataSets
    from edgeq.progress import Progress
    from edgeq.quantize.statistics import Statistics

L = TypeVar("L", bound=Layer)
L_co = TypeVar("L_co", bound=Layer, covariant=True)


class Quantizer(Protocol[L_co]):
    """How the weights of one format are quantized."""

    def prepare(self, jobs: Sequence[WeightJob], statistics: Statistics | None) -> None:
        """Look at jobs whose inputs were observed together, before the first of them is quantized."""

    def quantize(self, job: WeightJob, stats: LayerStats | None) -> L_co:
        """One weight by the job's method."""


def quantize_jobs(
    graph: ir.Model,
    jobs: Sequence[WeightJob],
    quantizer: Quantizer[L],
    title: str,
    data: DataSets,
    progress: Progress,
) -> list[L]:
    """Quantize every job's weight; layers keep the order of the jobs.

    Args:
        graph: the graph whose weights and inputs these are (equalized, where there is a static int8 part).
        jobs: from `weight_jobs`.
        quantizer: of their format.
        title: of the stage.
        data: its calibration part is used.
        progress: one stage; fallbacks become notices.
    """
    found: dict[str, L] = {}
    with progress.stage(title, len(jobs)) as stage:
        for part in in_parts((job for job in jobs if not is_sequential(job)), WeightJob.gram_bytes):
            statistics = observe_inputs(graph, part, data, progress)
            quantizer.prepare(part, statistics)
            for job in part:
                found[job.name] = quantizer.quantize(job, stats_of(job, statistics))
                stage.advance()
        in_turn = [job for job in jobs if is_sequential(job)]
        for job, layer in quantize_in_turn(graph, in_turn, found.values(), jobs, data, quantizer.quantize):
            found[job.name] = layer
            stage.advance()
        done = [found[job.name] for job in jobs]
        stage.note = describe(done)
    for notice in fallback_notices(layer.decision for layer in done):
        progress.notice(notice)
    return done


def describe(layers: Sequence[Layer]) -> str:
    """`36 weights, 4.50 bits each, gptq and scale_search`."""
    sizes = [layer.size for layer in layers]
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
    wanted = [name for job in jobs if job.method.needs > Needs.NOTHING for name in job.inputs]
    if not wanted:
        return None
    grams = {name for job in jobs if job.method.needs is Needs.GRAM for name in job.inputs}
    if is_too_large(graph):
        return observe_in_turn(graph, wanted, grams, data)
    cache = CalibrationCache(notify=progress.notice)
    tensors = tuple(dict.fromkeys(wanted))
    return calibrate(graph, tensors, data.calibration, cache=cache, gram=grams, padding=data.padding)


def stats_of(job: WeightJob, statistics: Statistics | None) -> LayerStats | None:
    """What calibration saw of a job's inputs, all of them together."""
    if statistics is None or not job.inputs or job.method.needs is Needs.NOTHING:
        return None
    found = statistics[job.inputs[0]]
    for name in job.inputs[1:]:
        found = found.merge(statistics[name])
    return LayerStats(found.channel_mean_square.astype(np.float32), found.rows, found.gram)
