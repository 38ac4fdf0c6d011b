"""Two versions of a graph, a segment at a time: each value is what the whole graph would compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.errors import ModelError
from edgeq.processors.text_padding import TEXT_PADDING
from edgeq.quantize.batches import batches_of
from edgeq.quantize.instrument import run, session_of
from edgeq.quantize.layers import find_layers
from edgeq.quantize.observers.layout import mask_of
from edgeq.quantize.side_by_side import SideBySide
from edgeq.samples import as_samples
from edgeq.types import Task

TEXTS = as_samples(["a b c", "d e", "f g h i j", "k"])


@pytest.fixture(scope="module")
def model(exported: Callable[..., Any]) -> Any:
    return exported("bert", Task.SENTENCE_EMBEDDING)


@pytest.fixture(scope="module")
def layers(model: Any) -> Any:
    return find_layers(model.canonical.model)


def batches(model: Any) -> Any:
    return batches_of(TEXTS, model.preprocessor, 2)


def changed_graph(model: ir.Model, weights: dict[str, np.ndarray]) -> ir.Model:
    copy = model.clone()
    for name, weight in weights.items():
        copy.graph.initializers[name].const_value = ir.tensor(weight, name=name)
    return copy


def whole(graph: ir.Model, tensor: str, model: Any) -> np.ndarray:
    """A tensor's real positions over all batches, by running the whole graph."""
    rows = []
    with session_of(graph, [tensor], None) as session:
        for feeds, _ in batches(model):
            rows.append(run(session, [tensor], feeds)[0][mask_of(feeds, TEXT_PADDING)])
    return np.concatenate(rows)


def sides(runs: SideBySide, tensor: str) -> tuple[np.ndarray, np.ndarray]:
    pairs = list(runs.rows(tensor))
    return tuple(np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))  # type: ignore[return-value]


@pytest.mark.parametrize("ram_bytes", [1 << 30, 0])
def test_each_border_holds_what_the_whole_graph_computes(model: Any, layers: Any, ram_bytes: int) -> None:
    graph = model.canonical.model
    rng = np.random.default_rng(0)
    replaced: dict[str, np.ndarray] = {}
    names = list(dict.fromkeys(layers.initializers.values()))
    with SideBySide(graph, names, batches(model), ram_bytes=ram_bytes, padding=TEXT_PADDING) as runs:
        order = {node.name: index for index, node in enumerate(graph.graph)}
        for site in sorted(layers.sites.linears, key=lambda site: order[site.name]):
            if "pooler" in site.name:
                continue
            runs.advance(site.name)
            original, changed = sides(runs, site.input)
            # Two sessions of the same kernels: float32 rounding of values of about one.
            assert np.abs(original - whole(graph, site.input, model)).max() < 1e-5
            assert np.abs(changed - whole(changed_graph(graph, replaced), site.input, model)).max() < 1e-5
            if site.input != layers.sites.linears[0].input:
                assert np.abs(changed - original).max() > 1e-3
            weight = graph.graph.initializers[site.weight].const_value.numpy()
            replaced[site.weight] = weight + rng.normal(size=weight.shape).astype(np.float32) * 0.05
            runs.replace(site.weight, replaced[site.weight])


def test_files_are_gone_afterwards(
    model: Any, layers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    site = layers.sites.linears[0]
    with SideBySide(
        model.canonical.model, [site.weight], batches(model), ram_bytes=0, padding=TEXT_PADDING
    ) as runs:
        runs.advance(site.name)
        values = [value for batch in runs._original for value in batch.values()]
        assert runs._original.spilled_bytes == sum(value.nbytes for value in values) > 0
    assert not list(tmp_path.iterdir())


def test_it_only_goes_forward(model: Any, layers: Any) -> None:
    first, last = layers.sites.linears[0], layers.sites.linears[-1]
    with SideBySide(model.canonical.model, [first.weight], batches(model), padding=TEXT_PADDING) as runs:
        runs.advance(last.name)
        with pytest.raises(ModelError, match="lies before"):
            runs.advance(first.name)


def test_a_replacement_has_the_shape_of_what_it_replaces(model: Any, layers: Any) -> None:
    site = layers.sites.linears[0]
    with (
        SideBySide(model.canonical.model, [site.weight], batches(model), padding=TEXT_PADDING) as runs,
        pytest.raises(ModelError, match="replacement"),
    ):
        runs.replace(site.weight, np.zeros((3, 3), np.float32))
