"""Every unit of a model in every format a search may choose, each quantized and measured once, and kept on disk."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeq.pipeline.drive_weights import stats_of
from edgeq.pipeline.sensitivity import require_memory
from edgeq.pipeline.tune.candidate_cache import CandidateCache
from edgeq.pipeline.weight_jobs import WeightJob, inputs_of, spec_for
from edgeq.pipeline.weight_only import QuantizedLayer, quantize_layer
from edgeq.quantize.cache import CalibrationCache, feeds_digest, model_digest
from edgeq.quantize.calibrate import calibrate
from edgeq.quantize.formats import Blocks, Float16
from edgeq.quantize.layers import ModelLayers, find_layers, layer_weight
from edgeq.quantize.methods import Needs
from edgeq.quantize.recipes import LayerSpec
from edgeq.quantize.search import Option, Unit
from edgeq.quantize.sensitivity import Candidate, Prober
from edgeq.quantize.shell import Shell
from edgeq.quantize.sites import EmbeddingSite, LinearSite
from edgeq.quantize.weight_only import LayerStats
from edgeq.types import Array, FloatArray

if TYPE_CHECKING:
    from edgeq.graph.component import Component
    from edgeq.pipeline.forward.data import DataSets
    from edgeq.progress import Progress
    from edgeq.quantize.statistics import Statistics
    from edgeq.tasks import Head

FORMATS: tuple[LayerSpec, ...] = (
    LayerSpec(Blocks.name, 4, 128, True, "gptq"),
    LayerSpec(Blocks.name, 4, 32, True, "gptq"),
    LayerSpec(Blocks.name, 4, 32, False, "gptq"),
    LayerSpec(Blocks.name, 4, 16, False, "gptq"),
    LayerSpec(Blocks.name, 8, 128, True, "rtn"),
    LayerSpec(Float16.name),
)
"""What a search chooses from: forms with fast kernels, then float storage."""
MIN_ELEMENTS = 4096
"""Smaller weights stay as they are: their codes would save less than a kilobyte or two."""


def format_of(spec: LayerSpec) -> str:
    """A format's name in tables: `int4 b32 asym`, `fp16`."""
    return spec.storage.label


@dataclass(frozen=True, slots=True)
class UnitWeight:
    """One weight with every layer that reads it."""

    name: str
    initializer: str
    site: LinearSite | EmbeddingSite
    inputs: tuple[str, ...]
    layers: tuple[str, ...]

    @property
    def elements(self) -> int:
        """Number of weights."""
        return self.site.shape[0] * self.site.shape[1]

    @property
    def columns(self) -> int:
        """Members that scales are shared along: inputs, or a table's columns."""
        return self.site.shape[1] if isinstance(self.site, EmbeddingSite) else self.site.shape[0]

    def formats(self) -> dict[str, LayerSpec]:
        """Specs by format name; tables, which have no inputs to look at, by the scale search."""
        specs = [self._fitted(spec) for spec in FORMATS]
        return {format_of(spec): spec for spec in specs}

    def _fitted(self, spec: LayerSpec) -> LayerSpec:
        if not isinstance(spec.storage, Blocks):
            return spec
        if spec.block_size > self.columns:
            spec = replace(spec, block_size=min(32, spec.block_size))
        return spec_for(spec, self.site)


def units_of(layers: ModelLayers) -> tuple[UnitWeight, ...]:
    """Weights in graph order; layers that share one are one unit."""
    sites: list[LinearSite | EmbeddingSite] = [*layers.sites.linears, *layers.sites.embeddings]
    grouped: dict[str, list[LinearSite | EmbeddingSite]] = {}
    for site in sites:
        grouped.setdefault(layers.initializers[site.name], []).append(site)
    units = []
    for initializer, readers in grouped.items():
        linears = [site for site in readers if isinstance(site, LinearSite)]
        inputs = tuple(dict.fromkeys(name for site in readers for name in inputs_of(site)))
        first = (linears or readers)[0]
        units.append(UnitWeight(first.name, initializer, first, inputs, tuple(site.name for site in readers)))
    return tuple(unit for unit in units if unit.elements >= MIN_ELEMENTS)


class CandidateStore:
    """Quantized units and their losses, computed when asked for and kept under a key of everything they follow from.

    Args:
        canonical: the model.
        head: how its outputs are read.
        data: its calibration part quantizes, its search part measures losses.
        progress: stages and notices.
        folder: of the cache; `$EDGEQ_CACHE/tune` when None, or a temporary one where that cannot be used.
    """

    def __init__(
        self,
        canonical: Component,
        head: Head,
        data: DataSets,
        progress: Progress,
        folder: Path | None = None,
    ) -> None:
        self.canonical, self.head = canonical, head
        self.data = data
        self.progress = progress
        self.layers = find_layers(canonical.model)
        self.units = {unit.name: unit for unit in units_of(self.layers)}
        key = {
            "model": model_digest(canonical.model),
            "data": feeds_digest(data.calibration),
            "onnxruntime": version("onnxruntime"),
        }
        self.cache = CandidateCache(key, progress, folder)
        self._search_key = feeds_digest((feeds, 0) for feeds in data.search)
        self._statistics: Statistics | None = None
        self._prober: Prober | None = None
        self._latest: tuple[tuple[str, ...], LayerStats] | None = None

    def weight(self, unit: UnitWeight) -> Array:
        """The original, `[in, out]`."""
        return layer_weight(self.canonical.model, unit.site)

    def layer(self, unit: UnitWeight, spec: LayerSpec) -> QuantizedLayer:
        """A unit in a weight-only format."""
        job = WeightJob(unit.name, unit.initializer, spec, unit.site, unit.inputs)
        return self.cache.layer(
            {"unit": unit.initializer, "spec": asdict(spec)},
            lambda: quantize_layer(job, self.weight(unit), self._stats(job)),
        )

    def search_units(self) -> list[Unit]:
        """Every unit with the size and the loss of each format.

        Raises:
            UnsupportedError: the model takes more memory than is free.
        """
        require_memory(self.layers, is_gram=True)
        table = [(unit, name, spec) for unit in self.units.values() for name, spec in unit.formats().items()]
        options: dict[str, list[Option]] = {}
        with self.progress.stage("quantizing and measuring each unit in each format", len(table)) as stage:
            for unit, name, spec in table:
                stage.note = f"{unit.name}: {name}"
                options.setdefault(unit.name, []).append(self._option(unit, name, spec))
                stage.advance()
            stage.note = f"{len(self.units)} units, {len(table)} candidates"
        return [Unit(name, tuple(found)) for name, found in options.items()]

    def _option(self, unit: UnitWeight, name: str, spec: LayerSpec) -> Option:
        size = round(spec.bits_per_weight(unit.columns) * unit.elements / 8)
        kind = str(self.head.entry.kind)
        key = {"unit": unit.initializer, "spec": asdict(spec), "search": self._search_key, "kind": kind}
        loss = self.cache.array({"loss": key}, lambda: np.asarray(self._loss(unit, name, spec)))
        # Losses below the noise of float32 outputs can come out negative.
        return Option(name, size, max(float(loss), 0.0))

    def _loss(self, unit: UnitWeight, name: str, spec: LayerSpec) -> float:
        if self._prober is None:
            shell = Shell(self.canonical.model, self.layers, [spec.name for spec in self.head.outputs])
            self._prober = Prober(shell, self.head, self.data.search, padding=self.data.padding)
        return self._prober.loss([Candidate(unit.name, name, self._rounded(unit, spec))])

    def _rounded(self, unit: UnitWeight, spec: LayerSpec) -> FloatArray:
        if isinstance(spec.storage, Blocks):
            return self.layer(unit, spec).weight.dequantize()
        return self.weight(unit).astype(np.float16).astype(np.float32)

    def _stats(self, job: WeightJob) -> LayerStats | None:
        """Of a job's inputs; those of the latest are kept, for its other formats and for layers that share them."""
        if job.method.needs is Needs.NOTHING or not job.inputs:
            return None
        if self._latest is None or self._latest[0] != job.inputs:
            found = stats_of(job, self._observed())
            assert found is not None
            self._latest = job.inputs, found
        return self._latest[1]

    def _observed(self) -> Statistics:
        """Statistics of every linear input, with Gram matrices, read once."""
        if self._statistics is None:
            inputs = tuple(dict.fromkeys(name for unit in self.units.values() for name in unit.inputs))
            cache = CalibrationCache(notify=self.progress.notice)
            self._statistics = calibrate(
                self.canonical.model,
                inputs,
                self.data.calibration,
                cache=cache,
                gram=True,
                padding=self.data.padding,
            )
        return self._statistics
