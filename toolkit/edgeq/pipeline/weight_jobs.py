"""The weights that a recipe quantizes, each once, with the layers and activations that read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgeq.quantize.formats import Blocks, WeightFormat
from edgeq.quantize.layers import ModelLayers
from edgeq.quantize.methods import METHODS, Method, Needs
from edgeq.quantize.recipes import LayerSpec
from edgeq.quantize.sites import EmbeddingSite, LinearSite


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
    def method(self) -> Method:
        """Facts of its method."""
        return METHODS[self.spec.method]

    def gram_bytes(self) -> int:
        """Memory of the Gram matrices of its inputs."""
        if self.method.needs is not Needs.GRAM:
            return 0
        channels = self.site.shape[1] if isinstance(self.site, EmbeddingSite) else self.site.shape[0]
        return 8 * channels**2 * len(self.inputs)


def weight_jobs(
    layers: ModelLayers, specs: Mapping[str, LayerSpec], kind: type[WeightFormat] = Blocks
) -> tuple[WeightJob, ...]:
    """The weights these specs store in a format, each once, with the most bits that a layer of it asks for."""
    sites: list[LinearSite | EmbeddingSite] = [*layers.sites.linears, *layers.sites.embeddings]
    jobs: dict[str, WeightJob] = {}
    for site in sites:
        spec = specs[site.name]
        if not isinstance(spec.storage, kind):
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
    method = METHODS[spec.method]
    table_method = spec.storage.table_method
    if isinstance(site, LinearSite) or method.needs is not Needs.GRAM or not table_method:
        return spec
    is_head = isinstance(spec.storage, Blocks) and bool(inputs_of(site))
    if is_head and not method.scales_inputs:
        return spec
    return replace(spec, method=table_method)


def _merged(first: WeightJob, second: WeightJob) -> WeightJob:
    spec = max(first.spec, second.spec, key=lambda spec: spec.bits)
    inputs = tuple(dict.fromkeys(first.inputs + second.inputs))
    site = first.site if isinstance(first.site, LinearSite) else second.site
    return replace(first, spec=spec, site=site, inputs=inputs)
