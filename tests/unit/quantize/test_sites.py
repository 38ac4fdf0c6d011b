"""Sites are found by structure in every architecture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
