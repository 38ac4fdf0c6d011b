"""`edgeq recipes`."""

from __future__ import annotations

import json

from edgeq.cli import run_command_line as run
from edgeq.quantize.recipes import BUILT_IN, load_recipe, parse_recipe


def test_list_names_every_recipe(capsys):
    assert run(["recipes"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in BUILT_IN)


def test_list_as_json(capsys):
    assert run(["recipes", "--json"]) == 0
    assert [item["name"] for item in json.loads(capsys.readouterr().out)] == list(BUILT_IN)


def test_show_prints_the_recipe_itself(capsys):
    assert run(["recipes", "show", "q4_k_m"]) == 0
    assert parse_recipe(capsys.readouterr().out) == load_recipe("q4_k_m")


def test_show_unknown(capsys):
    assert run(["recipes", "show", "q4km"]) == 1
    error = capsys.readouterr().err
    assert "unknown recipe `q4km`" in error
    assert "q4_k_m" in error
