"""Equalization moves scale, never values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.errors import UnsupportedError
from edgeq.graph.passes.equalize import equalize, equalized_name
from edgeq.graph.passes.sequence import edited
from edgeq.quantize.equalize import equalize_groups, group_sites
from edgeq.quantize.sites import find_sites, weight_of
from edgeq.runtime.session import VariantSession
from edgeq.samples import as_samples

# Two float32 roundings per scaled tensor through a two-layer model of unit-scale activations.
FLOAT_NOISE = 2e-4


def run(model: ir.Model, exported: Any, folder: Path) -> np.ndarray:
    path = folder / "model.onnx"
    ir.save(model, path)
    feeds = exported.preprocessor(as_samples(["a short text", "another one, a little longer"]))
    return next(iter(VariantSession(path, exported.canonical).run(feeds).values()))


def random_equalizations(exported: Any, seed: int = 0) -> tuple[Any, ...]:
    model = exported.canonical.model
    sites = find_sites(model)
    rng = np.random.default_rng(seed)
    activation = {
        site.input: rng.uniform(0.1, 10, site.shape[0]).astype(np.float32) for site in sites.linears
    }
    weight = {site.weight: np.abs(weight_of(model, site)).max(axis=1) for site in sites.linears}
    return equalize_groups(group_sites(sites.linears), activation, weight, 0.7)


@pytest.mark.parametrize("architecture", ["bert", "albert", "modernbert"])
def test_the_function_is_unchanged(architecture: str, exported: Callable[..., Any], tmp_path: Path) -> None:
    model = exported(architecture)
    before = run(model.canonical.model, model, tmp_path)
    after = run(edited(model.canonical.model, equalize(random_equalizations(model))), model, tmp_path)
    assert np.abs(before - after).max() <= FLOAT_NOISE * np.abs(before).max()


def test_the_check_can_fail(exported: Callable[..., Any], tmp_path: Path) -> None:
    """Weights scaled without their activations give another function."""
    model = exported("bert")
    graph = edited(model.canonical.model, equalize(random_equalizations(model)))
    for node in graph.graph:
        if node.name.endswith(".equalized"):
            node.op_type = "Div"
    before = run(model.canonical.model, model, tmp_path)
    assert np.abs(before - run(graph, model, tmp_path)).max() > 100 * FLOAT_NOISE


def test_the_output_projection_folds_into_the_value_projection(exported: Callable[..., Any]) -> None:
    items = random_equalizations(exported("bert"))
    folded = [item for item in items if item.folded_into]
    assert len(folded) == 2
    graph = edited(exported("bert").canonical.model, equalize(items))
    names = {value.name for node in graph.graph for value in node.outputs}
    assert all(equalized_name(item.tensor) not in names for item in folded)
    assert all(equalized_name(item.tensor) in names for item in items if not item.folded_into)


def test_the_down_projection_folds_into_the_gate(exported: Callable[..., Any], tmp_path: Path) -> None:
    model = exported("modernbert")
    folds = [item for item in random_equalizations(model) if item.folded_into]
    gates = [item for item in folds if str(item.folded_into).endswith("mlp.gate")]
    assert len(gates) == 2
    before = run(model.canonical.model, model, tmp_path)
    graph = edited(model.canonical.model, equalize(gates))
    assert len(graph.graph) == len(model.canonical.model.graph)
    after = run(graph, model, tmp_path)
    assert np.abs(before - after).max() <= FLOAT_NOISE * np.abs(before).max()
    # The other factor goes through an activation function, and cannot carry the scale.
    wrong = [replace(item, folded_into=str(item.folded_into).replace("gate", "input")) for item in gates]
    off = run(edited(model.canonical.model, equalize(wrong)), model, tmp_path)
    assert np.abs(before - off).max() > 10 * FLOAT_NOISE * np.abs(before).max()


def test_the_original_graph_is_not_touched(exported: Callable[..., Any]) -> None:
    model = exported("bert").canonical.model
    weights = {name: value.const_value.numpy().copy() for name, value in model.graph.initializers.items()}
    edited(model, equalize(random_equalizations(exported("bert"))))
    assert weights.keys() == set(model.graph.initializers)
    assert all(
        np.array_equal(model.graph.initializers[name].const_value.numpy(), data)
        for name, data in weights.items()
    )


def test_a_shared_weight_cannot_take_two_scales(exported: Callable[..., Any]) -> None:
    model = exported("albert")
    items = list(random_equalizations(model))
    weights = {site.name: site.weight for site in find_sites(model.canonical.model).linears}
    first = next(
        item
        for item in items
        if sum(weights[other.linears[0]] == weights[item.linears[0]] for other in items) > 1
    )
    items[items.index(first)] = replace(first, scale=first.scale * 2)
    with pytest.raises(UnsupportedError, match="share the weight"):
        edited(model.canonical.model, equalize(items))
