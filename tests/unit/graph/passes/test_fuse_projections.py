"""q, k and v of one format in one product: the same bits come out, and only where they may be fused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgeq.graph.passes.fuse_projections import fuse_projections
from edgeq.graph.passes.weight_only import Lowering, verify_weight_only
from edgeq.quantize import weight_only as wo
from edgeq.quantize.formats import Blocks
from edgeq.quantize.layers import find_layers, layer_weight
from edgeq.quantize.weight_only.matmul_nbits import lower

pytest.importorskip("onnxruntime_genai")

INT4, ASYM, INT8 = Blocks(4, 32), Blocks(4, 32, symmetric=False), Blocks(8, 32)
LAYERS = 2


@pytest.fixture(scope="module")
def graphs(tiny_decoder: Callable[..., Path]) -> Callable[[str], ir.Model]:
    from edgeq.exporters.causal_lm import load_language_model

    return cache(lambda family: load_language_model(tiny_decoder(family)).canonical.model)


def lowered(model: ir.Model, spec_of: Callable[[str], Blocks]) -> Lowering:
    layers = find_layers(model)
    return lower(
        model,
        {
            site.weight: wo.quantize("rtn", layer_weight(model, site), spec_of(site.name))
            for site in layers.sites.linears
        },
    )


def logits(model: ir.Model, path: Path) -> np.ndarray:
    ir.save(model, path)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds: dict[str, Any] = {
        "input_ids": np.arange(10).reshape(2, 5),
        "attention_mask": np.ones((2, 5), np.int64),
    }
    for item in session.get_inputs():
        if item.name.startswith("past"):
            feeds[item.name] = np.zeros((2, item.shape[1], 0, item.shape[3]), np.float32)
    return np.asarray(session.run(["logits"], feeds)[0])


def products(lowering: Lowering) -> list[str]:
    return [str(node.name) for node in lowering.model.graph if node.op_type == "MatMulNBits"]


@pytest.mark.parametrize("spec", [INT4, ASYM, INT8], ids=["int4", "zero points", "int8"])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_the_same_logits_from_fewer_products(
    family: str, spec: Blocks, graphs: Callable[[str], ir.Model], tmp_path: Path
) -> None:
    before = lowered(graphs(family), lambda _: spec)
    after = fuse_projections(before)
    assert len(products(before)) - len(products(after)) == 2 * LAYERS
    assert sum("qkv_proj" in name for name in products(after)) == LAYERS
    assert {node.name for node in after.nodes} == set(products(after))
    expected = logits(before.model, tmp_path / "before.onnx")
    np.testing.assert_array_equal(logits(after.model, tmp_path / "after.onnx"), expected)
    verify_weight_only(tmp_path / "after.onnx", after.nodes)


def test_rows_in_another_order_would_show(graphs: Callable[[str], ir.Model], tmp_path: Path) -> None:
    """The twin of the equality above."""
    after = fuse_projections(lowered(graphs("llama"), lambda _: INT4))
    expected = logits(after.model, tmp_path / "a.onnx")
    value = next(v for name, v in after.model.graph.initializers.items() if name.endswith("qkv_proj_q"))
    assert value.const_value is not None
    value.const_value = ir.tensor(np.roll(value.const_value.numpy(), 1, axis=0), name=value.name)
    assert np.abs(logits(after.model, tmp_path / "b.onnx") - expected).max() > 1e-3


@pytest.mark.parametrize(
    ("family", "spec_of"),
    [
        ("llama", lambda name: INT8 if name.endswith("v_proj") else INT4),
        ("llama", lambda name: ASYM if name.endswith("k_proj") else INT4),
        ("qwen3", lambda _: INT4),  # norms stand between product and attention
        ("gpt2", lambda _: INT4),  # no fused attention operator
    ],
    ids=["bits", "zero points", "norms", "no attention operator"],
)
def test_what_stays_apart(
    family: str, spec_of: Callable[[str], Blocks], graphs: Callable[[str], ir.Model]
) -> None:
    before = lowered(graphs(family), spec_of)
    after = fuse_projections(before)
    assert products(after) == products(before) and after.nodes == before.nodes


def test_offsets_keep_a_layer_apart(graphs: Callable[[str], ir.Model]) -> None:
    model = graphs("llama")
    layers = find_layers(model)
    weights = {s.weight: wo.quantize("rtn", layer_weight(model, s), INT4) for s in layers.sites.linears}
    weights = {
        name: replace(w, offsets=np.ones(w.scales.shape, np.float32)) if "v_proj" in name else w
        for name, w in weights.items()
    }
    after = fuse_projections(lower(model, weights))
    assert not any("qkv_proj" in name for name in products(after))
    assert Counter(node.op_type for node in after.model.graph)["ReduceSum"] >= LAYERS
