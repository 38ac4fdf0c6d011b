"""A searched choice becomes a recipe that resolves to it; the parts of a search's texts do not overlap."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from edgeq.errors import DataError
from edgeq.pipeline.originals import Texts
from edgeq.pipeline.tune.candidates import FORMATS, UnitWeight, format_of
from edgeq.pipeline.tune.data import divide_pairs, divide_texts
from edgeq.pipeline.tune.metrics import LabelledPairs
from edgeq.pipeline.tune.recipe import recipe_of
from edgeq.processors.text_padding import TEXT_PADDING
from edgeq.quantize.recipes import LayerSpec, layer_refs, parse_recipe
from edgeq.quantize.recipes.schema import RecipeExport
from edgeq.quantize.sites import EmbeddingSite, LinearSite
from edgeq.samples import Text

NAMES = ("layer.0.query", "layer.0.key", "layer.1.query", "layer.1.key", "table", "types")


def test_the_recipe_resolves_to_the_choice():
    int4, int8 = LayerSpec("weight-only", 4, 32, True, "gptq"), LayerSpec("weight-only", 8, 128, True, "rtn")
    specs = dict(zip(NAMES, (int4, int8, int4, LayerSpec("fp16"), int4), strict=False))
    recipe = recipe_of(specs, ["types"], "found", RecipeExport(None, 40, 3))
    assert recipe.default == int4
    found = parse_recipe(recipe.to_yaml()).resolve(layer_refs([(name, (64, 64)) for name in NAMES]))
    assert {name: found[name] for name in ("layer.0.query", "layer.0.key", "table")} == {
        "layer.0.query": int4,
        "layer.0.key": int8,
        "table": int4,
    }
    assert found["layer.1.key"].format == "fp16"
    assert found["types"].format == "fp32"
    assert parse_recipe(recipe.to_yaml()).export.seed == 3


def unit(site):
    return UnitWeight(site.name, "w", site, (), (site.name,))


def test_every_unit_has_formats_that_fit_it():
    wide = unit(LinearSite("a", "x", "p", "p", "w", None, (256, 64)))
    assert list(wide.formats()) == [format_of(spec) for spec in FORMATS]
    narrow = unit(LinearSite("a", "x", "p", "p", "w", None, (64, 256)))
    assert "int4 b128" not in narrow.formats()
    assert narrow.formats()["int8 b32"].bits == 8
    table = unit(EmbeddingSite("t", "y", "w", (1000, 64)))
    assert {spec.method for spec in table.formats().values() if spec.bits == 4 and spec.format != "fp16"} == {
        "scale_search"
    }


def data(count):
    return SimpleNamespace(feeds=None, samples=tuple(Text(f"text {i}") for i in range(count)))


class Words:
    """A preprocessor whose ids are the texts' numbers."""

    max_length = 4
    padding = TEXT_PADDING

    def __call__(self, samples, *, pad_to=None):
        ids = np.array([[int(sample.text.split()[1])] for sample in samples])
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    def costs(self, samples):
        return [1 for _ in samples]


FEEDER = Texts(Words(), None, 4)


@pytest.mark.parametrize("count", [16, 100, 900])
def test_parts_do_not_overlap(count):
    found = divide_texts(data(count), FEEDER, 400)
    parts = [
        {int(i) for feeds in part for i in feeds["input_ids"].ravel()}
        for part in (found.report, found.decision, found.sets.search)
    ]
    parts.append({int(sample.text.split()[1]) for sample in found.sets.texts})
    assert sum(map(len, parts)) == len(set().union(*parts))
    assert all(len(part) >= 2 for part in parts)
    assert len(parts[3]) <= 400


def test_ready_tensors_are_refused():
    with pytest.raises(DataError, match="needs texts"):
        divide_texts(SimpleNamespace(feeds={"input_ids": np.zeros((4, 4))}, samples=()), FEEDER, 8)


def test_pairs_are_halved_by_the_seed():
    pairs = LabelledPairs(tuple(map(float, range(40))), tuple((str(i), str(-i)) for i in range(40)))
    first, second = divide_pairs(pairs, 1)
    assert sorted(first.scores + second.scores) == list(pairs.scores)
    assert len(first.scores) == 20
    assert divide_pairs(pairs, 1) == (first, second)
    assert divide_pairs(pairs, 2) != (first, second)
