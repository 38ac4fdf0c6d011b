"""Per-layer sensitivity of a quantized model, cached."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.caches import cache_folder, notice_unusable
from edgeq.errors import OutputError, UnsupportedError
from edgeq.files import atomic_write_text
from edgeq.memory import free_memory
from edgeq.quantize.cache import CalibrationCache, feeds_digest, model_digest
from edgeq.quantize.calibrate import calibrate
from edgeq.quantize.formats import block_label
from edgeq.quantize.layers import ModelLayers, find_layers, layer_weight
from edgeq.quantize.plan import QuantizationPlan
from edgeq.quantize.sensitivity import Candidate, LayerCauses, LayerEffect, Prober, causes_of, measure
from edgeq.quantize.shell import Shell
from edgeq.quantize.sites import EmbeddingSite, LinearSite
from edgeq.types import FloatArray

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.pipeline.forward.data import DataSets
    from edgeq.pipeline.quantizing import Quantized
    from edgeq.progress import Progress
    from edgeq.tasks import Head

SENSITIVITY_VERSION = 2
FILE_NAME = "sensitivity.json"
FLOAT_BYTES, GRAM_BYTES = 4, 8


def sensitivity_of(head: Head, quantized: Quantized, data: DataSets, progress: Progress) -> list[LayerEffect]:
    """`sensitivity` of what a recipe came to; nothing where everything stays in float.

    Args:
        head: how the model's outputs are read.
        quantized: the recipe applied to it.
        data: its parts; see `sensitivity`.
        progress: one stage.
    """
    if quantized.plan is None:
        return []
    return sensitivity(head, quantized.graph, quantized.plan, quantized.rounded_weights(), data, progress)


def sensitivity(
    head: Head,
    graph: ir.Model,
    plan: QuantizationPlan,
    weights: Mapping[str, FloatArray],
    data: DataSets,
    progress: Progress,
) -> list[LayerEffect]:
    """Every quantized layer of a plan alone, most harmful first: of an encoder, or of a decoder with an empty cache.

    Args:
        head: how the model's outputs are read.
        graph: the original's, equalized where the plan says so.
        plan: the decisions.
        weights: linear layers as their codes stand for, by layer name, `[in, out]`; asked for one at a time.
        data: the search part is run; the calibration part says what the inputs look like.
        progress: one stage.

    Raises:
        UnsupportedError: nothing is quantized, or the model takes more memory than is free.
    """
    layers = find_layers(graph)
    names = quantized_names(layers, plan)
    if not names:
        raise UnsupportedError("this bundle has no quantized layer, so there is no loss to explain")
    require_memory(layers)
    key = _cache_key(head, graph, plan, weights, data)
    cached = _load(key)
    if cached is not None:
        return cached
    causes = _Causes(graph, layers, names, data, progress)
    with progress.stage("layer by layer", len(names)) as stage:
        shell = Shell(graph, layers, [spec.name for spec in head.outputs])
        prober = Prober(shell, head, data.search, padding=data.padding)
        candidates = candidates_of(graph, layers, plan, weights)
        effects = measure(prober, candidates, causes.of, stage.advance)
    try:
        _store(key, effects)
    except (OSError, OutputError) as error:
        notice_unusable(error, progress.notice)
    return effects


def require_memory(layers: ModelLayers, *, is_gram: bool = False) -> None:
    """Refuse a model whose weights do not fit in memory twice: here, and in the session that observes inputs.

    Args:
        layers: of the model.
        is_gram: whether Gram matrices of all inputs are held too.

    Raises:
        UnsupportedError: they do not.
    """
    shapes = {layers.initializers[site.name]: site.shape for site in _sites(layers)}
    needed = 2 * FLOAT_BYTES * sum(rows * columns for rows, columns in shapes.values())
    if is_gram:
        inputs = {site.input: site.shape[0] for site in layers.sites.linears}
        needed += GRAM_BYTES * sum(channels**2 for channels in inputs.values())
    free = free_memory()
    if free is not None and needed > free:
        raise UnsupportedError(
            f"layers are measured one by one with all weights in memory as float32, which takes {needed / 1e9:.1f} GB "
            f"for this model; {free / 1e9:.1f} GB are free",
            hint="plan.json of a bundle has the error of each weight",
        )


def quantized_names(layers: ModelLayers, plan: QuantizationPlan) -> tuple[str, ...]:
    """The quantized layers of a plan, in graph order."""
    planned = {item.name for item in plan.weights}
    planned |= {item.name for item in plan.linears if item.quantized}
    planned |= {item.name for item in plan.embeddings if item.quantized}
    return tuple(site.name for site in _sites(layers) if site.name in planned)


def candidates_of(
    graph: ir.Model, layers: ModelLayers, plan: QuantizationPlan, weights: Mapping[str, FloatArray]
) -> Iterator[Candidate]:
    """The quantized layers of a plan, one each, in graph order."""
    static = {item.name: item for item in plan.linears if item.quantized}
    blocks = {item.name: item for item in plan.weights}
    tables = {item.name for item in plan.embeddings if item.quantized}
    for site in _sites(layers):
        if site.name in blocks:
            item = blocks[site.name]
            form = block_label(item.bits, item.block_size, item.symmetric)
            yield Candidate(site.name, form, weights[site.name])
        elif site.name in static:
            yield Candidate(site.name, "static int8", weights[site.name], static[site.name])
        elif site.name in tables:
            yield Candidate(site.name, "int8 rows", int8_rows(layer_weight(graph, site)))


def _sites(layers: ModelLayers) -> list[LinearSite | EmbeddingSite]:
    return [*layers.sites.linears, *layers.sites.embeddings]


def int8_rows(table: FloatArray) -> FloatArray:
    """A table `[columns, rows]` rounded to int8 with one scale per row."""
    from edgeq.graph.passes.static_qdq import quantize_rows

    codes, scale = quantize_rows(table.T)
    return np.asarray((codes * scale[:, None]).T, np.float32)


class _Causes:
    """What about each layer explains its loss; the inputs of all are observed at once.

    Args:
        graph: the original's.
        layers: its layers.
        names: those that are quantized.
        data: its calibration part is run.
        progress: told what cannot be cached.
    """

    def __init__(
        self, graph: ir.Model, layers: ModelLayers, names: Sequence[str], data: DataSets, progress: Progress
    ) -> None:
        self._graph = graph
        self._sites = {site.name: site for site in _sites(layers)}
        sites = [self._sites[name] for name in names]
        inputs = tuple(dict.fromkeys(site.input for site in sites if isinstance(site, LinearSite)))
        cache = CalibrationCache(notify=progress.notice)
        self._seen: Mapping[str, Any] = (
            calibrate(graph, inputs, data.calibration, cache=cache, padding=data.padding) if inputs else {}
        )

    def of(self, candidate: Candidate) -> LayerCauses:
        """Of one layer."""
        site = self._sites[candidate.name]
        seen = self._seen[site.input] if isinstance(site, LinearSite) else None
        return causes_of(layer_weight(self._graph, site), candidate, seen)


def _cache_key(
    head: Head, graph: ir.Model, plan: QuantizationPlan, weights: Mapping[str, FloatArray], data: DataSets
) -> str:
    digest = hashlib.sha256()
    facts = {
        "plan": plan.to_json(),
        "model": model_digest(graph),
        "kind": head.entry.kind,
        "version": SENSITIVITY_VERSION,
    }
    digest.update(json.dumps(facts, sort_keys=True).encode())
    digest.update(feeds_digest((feeds, 0) for feeds in data.search).encode())
    digest.update(feeds_digest(data.calibration).encode())
    for name, weight in weights.items():  # One at a time: they may be computed when asked for.
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()


def _path(key: str) -> Path:
    return cache_folder() / "sensitivity" / f"{key}.json"


def _load(key: str) -> list[LayerEffect] | None:
    """A damaged entry counts as none."""
    try:
        return effects_from(json.loads(_path(key).read_text(encoding="utf-8")))
    except (OSError, OutputError, ValueError, KeyError, TypeError):
        return None


def _store(key: str, effects: Sequence[LayerEffect]) -> None:
    path = _path(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, json.dumps(to_document(effects)))


def to_document(effects: Sequence[LayerEffect]) -> dict[str, Any]:
    """What `sensitivity.json` holds."""
    return {"version": SENSITIVITY_VERSION, "layers": [effect.to_json() for effect in effects]}


def effects_from(document: Mapping[str, Any]) -> list[LayerEffect]:
    """The inverse of `to_document`."""
    if document["version"] != SENSITIVITY_VERSION:
        raise ValueError(f"sensitivity version {document['version']}; expected {SENSITIVITY_VERSION}")
    return [LayerEffect.from_json(item) for item in document["layers"]]
