"""Palettization wired up: input statistics as weights of the error, one table or one per group of output channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.errors import ConfigError
from edgeq.pipeline.weight_only import WeightJob, errors_of, observe_inputs, stats_of
from edgeq.quantize.layers import layer_weight
from edgeq.quantize.plan import WeightDecision
from edgeq.quantize.sites import LinearSite
from edgeq.quantize.weight_only.palette import METHOD, Palette, palettize

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.pipeline.data import DataSets
    from edgeq.progress import Progress
    from edgeq.quantize.statistics import Statistics


@dataclass(frozen=True, slots=True, eq=False)
class PalettizedLayer:
    """A weight as indices into tables, with what it cost."""

    decision: WeightDecision
    palette: Palette


def palettize_weights(
    graph: ir.Model, jobs: Sequence[WeightJob], data: DataSets, progress: Progress
) -> list[PalettizedLayer]:
    """Palettize every job's weight, the squared error weighted by E[x^2] of the layer's input.

    Raises:
        ConfigError: the output channels of a weight cannot be divided into the recipe's groups.
    """
    with progress.stage("palettizing weights", len(jobs)) as stage:
        statistics = observe_inputs(graph, jobs, data, progress)
        done = []
        for job in jobs:
            done.append(_palettize(graph, job, statistics))
            stage.advance()
        sizes = [layer.palette.indices.size for layer in done]
        bits = np.average([layer.decision.bits_per_weight for layer in done], weights=sizes)
        stage.note = f"{len(done)} weights, {bits:.2f} bits each, {METHOD}"
    return done


def _palettize(graph: ir.Model, job: WeightJob, statistics: Statistics | None) -> PalettizedLayer:
    weight = layer_weight(graph, job.site)
    stats = stats_of(job, statistics)
    # Groups are of output channels; the rows of an embedding table are words, and share one.
    is_grouped = job.spec.block_size != -1 and isinstance(job.site, LinearSite)
    group = job.spec.block_size if is_grouped else None
    if group is not None and weight.shape[1] % group:
        raise ConfigError(
            f"`{job.name}` has {weight.shape[1]} output channels, which groups of {group} do not divide",
            hint="block_size: -1 in the recipe is one table for the whole weight",
        )
    importance = None if stats is None else stats.mean_square
    rows = np.ascontiguousarray(weight.T)
    palette = palettize(rows, job.spec.bits, group_rows=group, importance=importance)
    weight_error, of_output = errors_of(weight, palette.dense().T, stats)
    decision = WeightDecision(
        name=job.name,
        initializer=job.initializer,
        bits=job.spec.bits,
        block_size=-1 if group is None else group,
        symmetric=False,
        method=METHOD,
        bits_per_weight=round(palette.bits_per_weight, 4),
        weight_error=weight_error,
        output_error=of_output,
    )
    return PalettizedLayer(decision, palette)
