"""Sites are found by structure in every architecture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeq.quantize.equalize import group_sites
from edgeq.quantize.sites import find_sites, weight_of


@pytest.mark.parametrize(
    ("architecture", "per_layer"), [("bert", 6), ("distilbert", 6), ("albert", 6), ("modernbert", 7)]
)
def test_every_linear_layer_is_found(architecture: str, per_layer: int, exported: Callable[..., Any]) -> None:
    model = exported(architecture).canonical.model
    sites = find_sites(model)
    extra = 1 if architecture == "albert" else 0  # its embedding projection
    assert len(sites.linears) == 2 * per_layer + extra
    for site in sites.linears:
        assert weight_of(model, site).shape == site.shape


def test_attention_products_are_no_sites(exported: Callable[..., Any]) -> None:
    model = exported("bert").canonical.model
    matmuls = [node for node in model.graph if node.op_type == "MatMul"]
    assert len(matmuls) == 16 and len(find_sites(model).linears) == 12


def test_output_projections_fold_into_value_projections(exported: Callable[..., Any]) -> None:
    sites = find_sites(exported("bert").canonical.model).linears
    folds = {site.name: site.folds_into for site in sites if site.folds_into}
    assert len(folds) == 2
    assert all("attention.output" in name and "value" in into for name, into in folds.items())


def test_down_projections_fold_into_the_factor_that_is_linear(exported: Callable[..., Any]) -> None:
    sites = find_sites(exported("modernbert").canonical.model).linears
    folds = {site.name: site.folds_into for site in sites if site.folds_into}
    assert folds == {
        f"layers.{index}.{part}.Wo": f"layers.{index}.{part}.{source}"
        for index in (0, 1)
        for part, source in (("attn", "value"), ("mlp", "gate"))
    }


def gated(readers: str = "", outputs: str = "float[n, 4] y") -> ir.Model:
    """`y = (tanh(x @ a) * (x @ b)) @ c`, and whatever else reads its tensors."""
    proto = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 20]> g (float[n, 4] x) => ({outputs}) {{
        ["a"] left = MatMul (x, wa)
        bent = Tanh (left)
        ["b"] right = MatMul (x, wb)
        product = Mul (bent, right)
        ["c"] y = MatMul (product, wc)
        {readers}
        }}"""
    )
    shapes = {"wa": (4, 6), "wb": (4, 6), "wc": (6, 4)}
    weights = [
        onnx.numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in shapes.items()
    ]
    proto.graph.initializer.extend(weights)
    return ir.serde.deserialize_model(proto)


def fold_of_c(model: ir.Model) -> str | None:
    return next(site.folds_into for site in find_sites(model).linears if site.name == "c")


def test_a_tensor_that_something_else_reads_carries_no_scale() -> None:
    assert fold_of_c(gated()) == "b"
    other = "float[n, 4] y, float[n, 6] other"
    assert fold_of_c(gated("other = Tanh (right)", other)) is None
    assert fold_of_c(gated("other = Tanh (product)", other)) is None
    assert fold_of_c(gated(outputs="float[n, 4] y, float[n, 6] right")) is None


def test_small_tables_are_not_worth_scales(exported: Callable[..., Any]) -> None:
    names = [table.table for table in find_sites(exported("bert").canonical.model).embeddings]
    assert any("word" in name for name in names) and not any("token_type" in name for name in names)


def test_query_key_and_value_share_a_group(exported: Callable[..., Any]) -> None:
    groups = group_sites(find_sites(exported("bert").canonical.model).linears)
    assert sorted(len(group.linears) for group in groups) == [1] * 6 + [3] * 2


def test_shared_weights_share_a_group(exported: Callable[..., Any]) -> None:
    groups = group_sites(find_sites(exported("albert").canonical.model).linears)
    assert max(len(group.tensors) for group in groups) == 2


def test_a_table_that_is_the_head_names_what_it_is_multiplied_with(exported: Callable[..., Any]) -> None:
    model = exported("bert", "fill-mask").canonical.model
    by_table = {site.table: site for site in find_sites(model).embeddings}
    tied = by_table["embeddings.word_embeddings.weight"]
    assert tied.product_input == "cls.predictions.transform.LayerNorm"
    assert by_table["embeddings.position_embeddings.weight"].product_input is None
    assert all(site.product_input is None for site in find_sites(exported("bert").canonical.model).embeddings)
