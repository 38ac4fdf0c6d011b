"""Palettization wired up: tables by k-means, their entries by GPTQ in turn or by what is nearest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.errors import ConfigError
from edgeq.pipeline.sequential import is_sequential, quantize_in_turn
from edgeq.pipeline.weight_only import (
    WeightJob,
    errors_of,
    fallback_notices,
    observe_inputs,
    stats_of,
)
from edgeq.quantize.gram_parts import in_parts
from edgeq.quantize.layers import layer_weight
from edgeq.quantize.plan import WeightDecision
from edgeq.quantize.sites import LinearSite
from edgeq.quantize.stretches import HeldWeight, Weight
from edgeq.quantize.weight_only import LayerStats
from edgeq.quantize.weight_only.base import checked_weight
from edgeq.quantize.weight_only.palette import METHOD as KMEANS
from edgeq.quantize.weight_only.palette import Palette, palettize
from edgeq.quantize.weight_only.palette_gptq import METHOD as GPTQ
from edgeq.quantize.weight_only.palette_gptq import palettize_for_output
from edgeq.types import Array

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.pipeline.forward.data import DataSets
    from edgeq.progress import Progress


@dataclass(frozen=True, slots=True, eq=False)
class PalettizedLayer:
    """A weight as indices into tables, with what it cost."""

    decision: WeightDecision
    palette: Palette

    def source(self, *, is_by_rows: bool) -> Weight:
        """The floats the palette stands for, as the graph stores them."""
        rows = self.palette.dense()
        return HeldWeight(np.ascontiguousarray(rows if is_by_rows else rows.T))


def palettize_weights(
    graph: ir.Model, jobs: Sequence[WeightJob], data: DataSets, progress: Progress
) -> list[PalettizedLayer]:
    """Palettize every job's weight; the palettes keep the order of the jobs.

    Args:
        graph: the graph whose weights and inputs these are.
        jobs: from `weight_jobs`.
        data: its calibration part is used.
        progress: one stage; fallbacks become notices.

    Raises:
        ConfigError: the output channels of a weight cannot be divided into the recipe's groups.
    """
    for job in jobs:
        _group_rows(job)
    found: dict[str, PalettizedLayer] = {}
    with progress.stage("palettizing weights", len(jobs)) as stage:
        for part in in_parts((job for job in jobs if not is_sequential(job)), WeightJob.gram_bytes):
            statistics = observe_inputs(graph, part, data, progress)
            for job in part:
                found[job.name] = palettize_layer(
                    job, layer_weight(graph, job.site), stats_of(job, statistics)
                )
                stage.advance()
        in_turn = [job for job in jobs if is_sequential(job)]

        def in_turn_job(job: WeightJob, stats: LayerStats) -> PalettizedLayer:
            return palettize_layer(job, layer_weight(graph, job.site), stats)

        for job, layer in quantize_in_turn(graph, in_turn, found.values(), jobs, data, in_turn_job):
            found[job.name] = layer
            stage.advance()
        done = [found[job.name] for job in jobs]
        stage.note = _describe(done)
    for notice in fallback_notices(layer.decision for layer in done):
        progress.notice(notice)
    return done


def palettize_layer(job: WeightJob, weight: Array, stats: LayerStats | None) -> PalettizedLayer:
    """One weight `[in, out]` by the job's method, and its error.

    Raises:
        ModelError: the weight is not a finite matrix.
    """
    bits, group = job.spec.bits, _group_rows(job)
    notes: tuple[str, ...] = ()
    values = checked_weight(weight)
    if job.spec.method == GPTQ:
        palette, notes = palettize_for_output(values, bits, stats, group_rows=group)
    else:
        importance = None if stats is None else stats.mean_square
        rows = np.ascontiguousarray(values.T)
        palette = palettize(rows, bits, group_rows=group, importance=importance)
    weight_error, of_output = errors_of(weight, palette.dense().T, stats)
    decision = WeightDecision(
        name=job.name,
        initializer=job.initializer,
        bits=bits,
        block_size=-1 if group is None else group,
        symmetric=False,
        method=KMEANS if notes else job.spec.method,
        bits_per_weight=round(palette.bits_per_weight, 4),
        weight_error=weight_error,
        output_error=of_output,
        notes=notes,
    )
    return PalettizedLayer(decision, palette)


def _group_rows(job: WeightJob) -> int | None:
    """Output channels per table; the rows of an embedding table are words, and share one."""
    group, channels = job.spec.block_size, job.site.shape[1]
    if group == -1 or not isinstance(job.site, LinearSite):
        return None
    if channels % group:
        raise ConfigError(
            f"`{job.name}` has {channels} output channels, which groups of {group} do not divide",
            hint="block_size: -1 in the recipe is one table for the whole weight",
        )
    return group


def _describe(layers: Sequence[PalettizedLayer]) -> str:
    sizes = [layer.palette.indices.size for layer in layers]
    bits = np.average([layer.decision.bits_per_weight for layer in layers], weights=sizes)
    methods = " and ".join(dict.fromkeys(layer.decision.method for layer in layers))
    return f"{len(layers)} weights, {bits:.2f} bits each, {methods}"
