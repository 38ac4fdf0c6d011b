"""Weights palettized: tables by k-means, their entries by GPTQ in turn or by what is nearest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.errors import ConfigError
from edgeq.pipeline.drive_weights import quantize_jobs
from edgeq.pipeline.weight_jobs import WeightJob
from edgeq.quantize import formats
from edgeq.quantize.layers import layer_weight
from edgeq.quantize.plan import WeightDecision
from edgeq.quantize.segmented import HeldWeight, Weight
from edgeq.quantize.sites import LinearSite
from edgeq.quantize.weight_errors import energy_of, is_known
from edgeq.quantize.weight_only import LayerStats, palettize
from edgeq.quantize.weight_only.palette import METHOD as KMEANS
from edgeq.quantize.weight_only.palette import Palette
from edgeq.types import Array

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.pipeline.forward.data import DataSets
    from edgeq.progress import Progress
    from edgeq.quantize.statistics import Statistics


@dataclass(frozen=True, slots=True, eq=False)
class PalettizedLayer:
    """A weight as indices into tables, with what it cost."""

    decision: WeightDecision
    palette: Palette

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.palette.indices.size

    def source(self, *, is_by_rows: bool) -> Weight:
        """The floats the palette stands for, as the graph stores them."""
        rows = self.palette.dense()
        return HeldWeight(np.ascontiguousarray(rows if is_by_rows else rows.T))


def palettize_weights(
    graph: ir.Model, jobs: Sequence[WeightJob], data: DataSets, progress: Progress
) -> list[PalettizedLayer]:
    """Palettize every job's weight; see `drive_weights.quantize_jobs`.

    Raises:
        ConfigError: the output channels of a weight cannot be divided into the recipe's groups.
    """
    for job in jobs:
        palette_of(job)
    return quantize_jobs(graph, jobs, _PaletteQuantizer(graph), "palettizing weights", data, progress)


@dataclass(frozen=True, slots=True)
class _PaletteQuantizer:
    graph: ir.Model

    def prepare(self, jobs: Sequence[WeightJob], statistics: Statistics | None) -> None:
        """Nothing is shared between weights."""

    def quantize(self, job: WeightJob, stats: LayerStats | None) -> PalettizedLayer:
        """One weight by the job's method."""
        return palettize_layer(job, layer_weight(self.graph, job.site), stats)


def palettize_layer(job: WeightJob, weight: Array, stats: LayerStats | None) -> PalettizedLayer:
    """One weight `[in, out]` by the job's method, and its error.

    Raises:
        ModelError: the weight is not a finite matrix.
    """
    wanted = palette_of(job)
    palette, notes = palettize(job.spec.method, weight, wanted, stats)
    energy = energy_of(weight, palette.dense().T, stats)
    decision = WeightDecision(
        name=job.name,
        initializer=job.initializer,
        bits=wanted.bits,
        block_size=wanted.channels,
        symmetric=False,
        method=KMEANS if notes else job.spec.method,
        bits_per_weight=round(palette.bits_per_weight, 4),
        weight_error=energy.weight_error,
        output_error=energy.output_error if is_known(stats) else None,
        notes=notes,
    )
    return PalettizedLayer(decision, palette)


def palette_of(job: WeightJob) -> formats.Palette:
    """The palette a job asks for; the rows of an embedding table are words, and share one table.

    Raises:
        ConfigError: its groups do not divide the output channels.
    """
    wanted, channels = job.spec.storage, job.site.shape[1]
    assert isinstance(wanted, formats.Palette)
    if not isinstance(job.site, LinearSite):
        return formats.Palette(wanted.bits, formats.PER_CHANNEL)
    if wanted.channels != formats.PER_CHANNEL and channels % wanted.channels:
        raise ConfigError(
            f"`{job.name}` has {channels} output channels, which groups of {wanted.channels} do not divide",
            hint="block_size: -1 in the recipe is one table for the whole weight",
        )
    return wanted
