"""Several sequence lengths and the oldest iOS, from flags and recipes to a request."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeq.errors import ConfigError, UsageError
from edgeq.pipeline import options
from edgeq.pipeline.request import request_from
from edgeq.quantize.recipes import load_recipe, parse_recipe
from edgeq.quantize.recipes.schema import RecipeExport


@pytest.mark.parametrize(
    ("given", "lengths"),
    [("128", (128,)), ("32,128, 64", (32, 64, 128)), (64, (64,)), ([32, 16], (16, 32)), (None, ())],
)
def test_lengths_are_sorted_and_the_longest_is_static(given: Any, lengths: tuple[int, ...]) -> None:
    request = request_from(options.ExportOptions(seq_len=given, ios=18))
    assert request.seq_lens == lengths
    assert request.seq_len == max(lengths, default=None)
    assert request.ios == 18


@pytest.mark.parametrize("given", ["", "16,x", "0", "-4", "16,,32", []])
def test_what_is_no_length_is_refused(given: Any) -> None:
    with pytest.raises(UsageError, match="no sequence length"):
        request_from(options.ExportOptions(seq_len=given))


def test_a_bundles_recipe_repeats_them(tmp_path: Path) -> None:
    recipe = replace(load_recipe("fp16"), export=RecipeExport((32, 128), None, 0, 18))
    assert parse_recipe(recipe.to_yaml()) == recipe
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml())
    request = request_from(options.ExportOptions(recipe=str(path)))
    assert (request.seq_lens, request.ios) == ((32, 128), 18)
    # A flag wins over the file.
    assert request_from(options.ExportOptions(recipe=str(path), seq_len=64)).seq_lens == (64,)


@pytest.mark.parametrize("value", ["[]", "[32, true]", "[32, x]", "text"])
def test_a_recipe_with_other_lengths_is_refused(value: str) -> None:
    text = load_recipe("fp16").to_yaml() + f"export: {{seq_len: {value}}}\n"
    with pytest.raises(ConfigError, match="`seq_len`"):
        parse_recipe(text)
