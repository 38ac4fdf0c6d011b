"""Per-layer sensitivity of a quantized model, cached."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.caches import cache_folder, notice_unusable
from edgeq.errors import OutputError, UnsupportedError
from edgeq.files import atomic_write_text
from edgeq.quantize.cache import CalibrationCache, feeds_digest, model_digest
from edgeq.quantize.formats import block_label
from edgeq.quantize.layers import ModelLayers, find_layers, layer_weight
from edgeq.quantize.plan import QuantizationPlan
from edgeq.quantize.sensitivity import Candidate, LayerCauses, LayerEffect, Prober, causes_of, measure
from edgeq.quantize.shell import Shell
from edgeq.quantize.sites import EmbeddingSite, LinearSite
from edgeq.types import FloatArray

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.graph.component import Component
    from edgeq.pipeline.forward.data import DataSets
    from edgeq.progress import Progress
    from edgeq.tasks import Head

SENSITIVITY_VERSION = 2
FILE_NAME = "sensitivity.json"


def sensitivity(
    canonical: Component,
    head: Head,
    equalized: ir.Model,
    plan: QuantizationPlan,
    weights: Mapping[str, FloatArray],
    data: DataSets,
    progress: Progress,
) -> list[LayerEffect]:
    """Every quantized layer of a plan alone, most harmful first.

    Args:
        canonical: the original.
        head: how its outputs are read.
        equalized: the graph the plan refers to.
        plan: the decisions.
        weights: linear layers as their codes stand for, by layer name, `[in, out]`.
        data: the search part is run; the calibration part says what the inputs look like.
        progress: one stage.
    """
    layers = find_layers(equalized)
    candidates = candidates_of(equalized, layers, plan, weights)
    if not candidates:
        raise UnsupportedError("this bundle has no quantized layer, so there is no loss to explain")
    key = _cache_key(head, equalized, plan, weights, data)
    cached = _load(key)
    if cached is not None:
        return cached
    causes = _causes(equalized, layers, candidates, data, progress)
    with progress.stage("layer by layer", len(candidates)) as stage:
        prober = Prober(
            Shell(equalized, layers, [spec.name for spec in canonical.outputs]),
            head,
            data.search,
        )
        effects = measure(prober, candidates, lambda item: causes[item.name], stage.advance)
    try:
        _store(key, effects)
    except (OSError, OutputError) as error:
        notice_unusable(error, progress.notice)
    return effects


def candidates_of(
    graph: ir.Model, layers: ModelLayers, plan: QuantizationPlan, weights: Mapping[str, FloatArray]
) -> list[Candidate]:
    """The quantized layers of a plan, one each, in graph order."""
    static = {item.name: item for item in plan.linears if item.quantized}
    blocks = {item.name: item for item in plan.weights}
    tables = {item.name for item in plan.embeddings if item.quantized}
    sites: list[LinearSite | EmbeddingSite] = [*layers.sites.linears, *layers.sites.embeddings]
    found = []
    for site in sites:
        if site.name in blocks:
            item = blocks[site.name]
            form = block_label(item.bits, item.block_size, item.symmetric)
            found.append(Candidate(site.name, form, weights[site.name]))
        elif site.name in static:
            found.append(Candidate(site.name, "static int8", weights[site.name], static[site.name]))
        elif site.name in tables:
            found.append(Candidate(site.name, "int8 rows", int8_rows(layer_weight(graph, site))))
    return found


def int8_rows(table: FloatArray) -> FloatArray:
    """A table `[columns, rows]` rounded to int8 with one scale per row."""
    from edgeq.graph.passes.static_qdq import quantize_rows

    codes, scale = quantize_rows(table.T)
    return np.asarray((codes * scale[:, None]).T, np.float32)


def _causes(
    graph: ir.Model, layers: ModelLayers, candidates: Sequence[Candidate], data: DataSets, progress: Progress
) -> dict[str, LayerCauses]:
    from edgeq.quantize.calibrate import calibrate

    sites = {site.name: site for site in layers.sites.linears}
    tables = {site.name: site for site in layers.sites.embeddings}
    inputs = tuple(dict.fromkeys(sites[item.name].input for item in candidates if item.name in sites))
    statistics: Mapping[str, Any] = {}
    if inputs:
        statistics = calibrate(
            graph, inputs, data.calibration, cache=CalibrationCache(notify=progress.notice)
        )
    found = {}
    for item in candidates:
        site = sites.get(item.name) or tables[item.name]
        seen = statistics[site.input] if isinstance(site, LinearSite) else None
        found[item.name] = causes_of(layer_weight(graph, site), item, seen)
    return found


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
    for name, weight in weights.items():
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
