"""Recipes: the built-in data, matching, llama.cpp's mixing rule, round trips, bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from edgeq.errors import ConfigError
from edgeq.quantize.recipes import (
    BUILT_IN,
    LayerSpec,
    layer_refs,
    load_recipe,
    mean_bits_per_weight,
    parse_recipe,
)
from edgeq.quantize.recipes.layers import selects, use_more_bits

BERT = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")


def bert(layers=6, hidden=384):
    shapes = [
        ("embeddings.word_embeddings", (hidden, 30522)),
        ("embeddings.position_embeddings", (hidden, 512)),
    ]
    for i in range(layers):
        shapes += [(f"encoder.layer.{i}.{part}", (hidden, hidden)) for part in BERT]
        shapes += [
            (f"encoder.layer.{i}.intermediate.dense", (hidden, 4 * hidden)),
            (f"encoder.layer.{i}.output.dense", (4 * hidden, hidden)),
        ]
    return layer_refs(shapes)


def llama(layers=32, tied=False):
    shapes = [("model.embed_tokens", (4096, 128256))]
    for i in range(layers):
        prefix = f"model.layers.{i}"
        shapes += [(f"{prefix}.self_attn.{p}_proj", (4096, 4096 if p in "qo" else 1024)) for p in "qkvo"]
        shapes += [(f"{prefix}.mlp.{p}_proj", (4096, 14336)) for p in ("gate", "up")]
        shapes += [(f"{prefix}.mlp.down_proj", (14336, 4096))]
    return layer_refs(
        shapes if tied else [*shapes, ("lm_head", (4096, 128256))], ["model.embed_tokens"] if tied else []
    )


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("layers", [bert(), llama(), llama(2, tied=True)], ids=["bert", "llama", "tied"])
def test_every_recipe_resolves(name, layers):
    recipe = load_recipe(name)
    specs = recipe.resolve(layers)
    assert list(specs) == [layer.name for layer in layers]
    assert recipe.name == name
    assert recipe.summary
    for layer in layers:
        if name == "stored":
            with pytest.raises(ConfigError, match="known from its checkpoint"):
                specs[layer.name].bits_per_weight(layer.shape[0])
        else:
            assert specs[layer.name].bits_per_weight(layer.shape[0]) >= 4


def test_the_list_is_complete():
    folder = Path(__import__("edgeq.quantize.recipes", fromlist=["x"]).__file__).parent
    assert {path.stem for path in folder.glob("*.yaml")} == set(BUILT_IN)


@pytest.mark.parametrize("name", BUILT_IN)
def test_round_trip_is_exact(name, tmp_path):
    recipe = load_recipe(name)
    text = recipe.to_yaml()
    assert parse_recipe(text) == recipe
    assert parse_recipe(text).to_yaml() == text
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    assert load_recipe(path) == recipe
    path.write_text(text.replace("format: ", "format: fp", 1), encoding="utf-8")
    with pytest.raises(ConfigError):
        load_recipe(path)


@pytest.mark.parametrize(
    ("count", "expected"),
    [(4, {2, 3}), (6, {2, 5}), (8, {0, 3, 6, 7}), (12, {0, 3, 6, 9, 10, 11})],
)
def test_use_more_bits_golden(count, expected):
    """Counted by hand from llama.cpp's rule."""
    assert {i for i in range(count) if use_more_bits(i, count)} == expected
    assert sum(use_more_bits(i, 32) for i in range(32)) == 16


def test_q4_k_m_gives_more_bits_where_llama_cpp_does():
    layers = llama(8)
    specs = load_recipe("q4_k_m").resolve(layers)
    eight = {name for name, spec in specs.items() if spec.bits == 8}
    expected = {
        f"model.layers.{i}.{part}" for i in (0, 3, 6, 7) for part in ("self_attn.v_proj", "mlp.down_proj")
    }
    assert eight == expected | {"lm_head"}
    assert specs["model.embed_tokens"].bits == 4


def test_q4_k_s_gives_more_bits_where_llama_cpp_does():
    specs = load_recipe("q4_k_s").resolve(llama(16))
    eight = {name for name, spec in specs.items() if spec.bits == 8}
    expected = {f"model.layers.{i}.self_attn.v_proj" for i in range(4)}
    assert eight == expected | {f"model.layers.{i}.mlp.down_proj" for i in range(2)} | {"lm_head"}


def test_a_tied_table_has_the_bits_of_the_head():
    assert load_recipe("q4_k_m").resolve(llama(4, tied=True))["model.embed_tokens"].bits == 8


def test_bits_are_ordered_as_the_names_say():
    for layers in (bert(), llama()):
        names = ("q8", "q6", "q5_k_m", "q4_k_m", "q4_k_s", "int4")
        bits = [mean_bits_per_weight(load_recipe(name).resolve(layers), layers) for name in names]
        assert bits == sorted(bits, reverse=True)
        assert len(set(bits)) == len(bits)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("q8", 8.5, 8.5), ("q6", 6.2, 6.9), ("q5_k_m", 5.4, 5.9), ("q4_k_m", 5.0, 5.45), ("q4", 4.5, 5)],
)
def test_bits_per_weight_of_an_8b_llama(name, low, high):
    layers = llama()
    assert low <= mean_bits_per_weight(load_recipe(name).resolve(layers), layers) <= high


def test_positions_stay_in_float_as_in_llama_cpp_or_become_rows():
    table = "embeddings.position_embeddings"
    for name in ("q8", "q6", "q5_k_m", "q4_k_m", "q4_k_s", "q4"):
        assert load_recipe(name).resolve(bert())[table].format == "fp32"
    for name in ("int4", "w4a8"):
        spec = load_recipe(name).resolve(bert())[table]
        assert (spec.format, spec.bits, spec.block_size) == ("weight-only", 8, -1)


def test_static_recipe_becomes_settings():
    layers = bert()
    recipe = load_recipe("q8-static")
    settings = recipe.static_settings(recipe.resolve(layers), layers)
    assert (settings.alpha, settings.range_method, settings.bias_correction) == (0.7, "min-max", False)
    assert settings.exclude == ()
    assert settings.embeddings
    edited = parse_recipe(
        recipe.to_yaml().replace(
            "rules:\n", "rules:\n- match: {role: ffn.down, layers: last}\n  set: {format: fp32}\n", 1
        )
    )
    assert edited.static_settings(edited.resolve(layers), layers).exclude == ("encoder.layer.5.output.dense",)


def recipe_with(**changes):
    document = {
        "name": "mine",
        "default": {"format": "weight-only"},
        "rules": [{"match": {"role": "head"}, "set": {"bits": 8}, "optional": True}],
    }
    return yaml.safe_dump(document | changes)


def rule(**changes):
    return [{"match": {"role": "ffn.down"}, "set": {"bits": 8}} | changes]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (recipe_with(defaults={}), "unknown key `defaults`", "default"),
        (recipe_with(default={"bit": 4}), "unknown key `bit`", "bits"),
        (recipe_with(default={"bits": 5}), "`bits` in .* is 5", None),
        (recipe_with(default={"bits": True}), "`bits` in .* is True", None),
        (recipe_with(default={"symmetric": "yes"}), "expected bool", None),
        (recipe_with(default={"method": "gtpq"}), "`method` in .* is 'gtpq'", "gptq"),
        (recipe_with(default={"block_size": 24}), "`block_size` in .* is 24", None),
        (recipe_with(default={"format": "weightonly"}), "`format`", "weight-only"),
        (recipe_with(rules={}), "expected a list", None),
        (recipe_with(rules=rule(match={"roles": "x"})), "unknown key `roles`", "role"),
        (recipe_with(rules=rule(match={"role": "ffn.dwn"})), "unknown role `ffn.dwn`", "ffn.down"),
        (recipe_with(rules=rule(match={"layers": "more_bit"})), "`layers` of rule 1", "more_bits"),
        (recipe_with(rules=rule(match={})), "empty `match`", None),
        (recipe_with(rules=rule(set={})), "empty `set`", None),
        (recipe_with(rules=rule(optional="yes")), "expected true or false", None),
        (recipe_with(static_int8={"alpha": 1.5}), "expected 0 to 1", None),
        (recipe_with(static_int8={"range_method": "minmax"}), "`range_method`", "min-max"),
        ("name: [", "is not YAML", None),
        ("- a\n", "expected keys and values", None),
        ("name: x\n", "has no `default`", None),
    ],
)
def test_bad_recipes(text, message, hint):
    with pytest.raises(ConfigError, match=message) as caught:
        parse_recipe(text)
    if hint:
        assert caught.value.hint == f"did you mean `{hint}`?"


@pytest.mark.parametrize(
    "match", [{"role": "head"}, {"name": "encoder.layer.9.*"}, {"role": "ffn.down", "layers": [17]}]
)
def test_a_rule_that_matches_nothing(match):
    recipe = parse_recipe(recipe_with(rules=rule(match=match)))
    with pytest.raises(ConfigError, match="rule 1 of recipe `mine` matches no layer"):
        recipe.resolve(bert())
    optional = parse_recipe(recipe_with(rules=rule(match=match, optional=True)))
    assert set(optional.resolve(bert()).values()) == {LayerSpec()}


def test_names_and_later_rules_win():
    rules = [
        {"match": {"name": "encoder.layer.0.*"}, "set": {"bits": 8}},
        {"match": {"name": ["*.0.attention.self.key"]}, "set": {"block_size": 16, "bits": 4}},
    ]
    specs = parse_recipe(recipe_with(rules=rules)).resolve(bert())
    assert specs["encoder.layer.0.attention.self.query"] == LayerSpec(bits=8)
    assert specs["encoder.layer.0.attention.self.key"] == LayerSpec(bits=4, block_size=16)
    assert specs["encoder.layer.1.attention.self.query"] == LayerSpec()


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("all", range(8)),
        ("first", [0]),
        ("last", [7]),
        ("first 3", [0, 1, 2]),
        ("last 2", [6, 7]),
        ("first_eighth", [0]),
        ((0, -1, 20), [0, 7]),
    ],
)
def test_selectors(selector, expected):
    assert [i for i in range(8) if selects(selector, i, 8)] == list(expected)
    assert selects(selector, None, 8) == (selector == "all")


def test_unknown_recipe_and_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="unknown recipe `q4_km`") as caught:
        load_recipe("q4_km")
    assert caught.value.hint == "did you mean `q4_k_m`?"
    with pytest.raises(ConfigError, match="no recipe file"):
        load_recipe(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: x\nab\xff", "line 2 of .* is not UTF-8: byte 0xff at position 3"),
        (b"[" * 20_000, "is not YAML"),
        (b"#" * (2 << 20), "has 2097152 bytes; a recipe has at most 1048576"),
    ],
)
def test_files_that_are_no_recipe(tmp_path, content, message):
    (tmp_path / "r.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_recipe(tmp_path / "r.yaml")
