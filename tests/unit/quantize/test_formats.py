"""Weight formats and the methods that choose them: the tables hold together, and what recipes say comes through."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module

import pytest

from edgeq.errors import ConfigError
from edgeq.quantize import formats
from edgeq.quantize.formats import FORMATS
from edgeq.quantize.methods import METHODS, Needs, methods_for
from edgeq.quantize.recipes import LayerSpec
from edgeq.quantize.weight_only import fit_of


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_recipe_says_comes_through(name):
    kind = FORMATS[name]
    method = next(iter(methods_for(kind)), "gptq")
    spec = LayerSpec(name, 8, 64, False, method)
    assert kind.name == name and type(spec.storage) is kind
    said = {"bits": 8, "block_size": 64, "channels": 64, "symmetric": False}
    names = [field.name for field in fields(spec.storage) if field.name in said]
    assert all(getattr(spec.storage, name) == said[name] for name in names)


@pytest.mark.parametrize("name", FORMATS)
def test_formats_that_are_chosen_have_methods_and_one_for_tables(name):
    kind = FORMATS[name]
    methods = methods_for(kind)
    assert bool(methods) == bool(kind.widths) == bool(kind.table_method)
    if methods:
        assert kind.table_method in methods
        assert METHODS[kind.table_method].needs is not Needs.GRAM


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_where_the_table_says(name):
    method = METHODS[name]
    assert method.modules
    for module in method.modules.values():
        assert callable(import_module(f"edgeq.quantize.weight_only.{module}").quantize)
    if method.by_rows:
        assert callable(fit_of(name))


def test_facts():
    assert [kind.name for kind in FORMATS.values() if kind.is_quantized] == [
        "int8-static", "weight-only", "palette", "stored",
    ]  # fmt: skip
    assert [kind.name for kind in FORMATS.values() if not kind.is_rounded_here] == ["fp32", "fp16", "stored"]
    assert [spec.storage.label for spec in (LayerSpec(symmetric=False), LayerSpec("fp16"))] == [
        "int4 b32 asym", "fp16",
    ]  # fmt: skip
    rows = [LayerSpec("int8-static"), LayerSpec(bits=8, block_size=-1), LayerSpec(bits=8)]
    assert [spec.storage.is_row_int8 for spec in rows] == [True, True, False]
    assert [LayerSpec(name).bits_per_weight(64) for name in ("fp32", "fp16", "int8-static")] == [32, 16, 8.5]
    assert LayerSpec("palette", 4, 8, method="kmeans").bits_per_weight(64) == 4 + 16 * 16 / (8 * 64)


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="unknown weight format `nf4`; expected one of fp32, "):
        LayerSpec("nf4")
    with pytest.raises(ConfigError, match="has no weight-only storage"):
        LayerSpec("fp16").blocks()
    with pytest.raises(ConfigError, match="block size 48"):
        formats.Blocks(4, 48)
