"""Which tensor gets which type: llama.cpp's mixing rules, as published and as its source has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeq.quantize.recipes import BUILT_IN, load_recipe
from edgeq.quantize.recipes.schema import file_type_recipe
from edgeq.targets.gguf.file_types import FILE_TYPES, RECIPES, Place, stays_float, tensor_type
from edgeq.targets.gguf.target import TARGET, file_type_of

gguf = pytest.importorskip("gguf")


def kinds(file_type: str, part: str, layers: int = 8, columns: int = 512) -> list[str]:
    return [tensor_type(file_type, Place(f"blk.{n}.{part}.weight", columns, layers)) for n in range(layers)]


def test_numbers_and_names_are_those_of_the_gguf_package() -> None:
    names = {"F32": "ALL_F32"}
    for kind in FILE_TYPES.values():
        found = gguf.LlamaFileType(kind.number).name
        assert found == names.get(kind.label, f"MOSTLY_{kind.label}")


def test_m_mixes_give_more_bits_to_half_of_the_layers() -> None:
    # use_more_bits(i, 8): 0, 3, 6, 7.
    assert kinds("q4_k_m", "attn_v") == ["Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q6_K"]
    assert kinds("q5_k_m", "ffn_down") == ["Q6_K", "Q5_K", "Q5_K", "Q6_K", "Q5_K", "Q5_K", "Q6_K", "Q6_K"]
    assert kinds("q4_k_m", "attn_qkv") == kinds("q4_k_m", "attn_v")
    assert set(kinds("q4_k_m", "attn_q")) == set(kinds("q4_k_m", "ffn_up")) == {"Q4_K"}


def test_s_mixes_give_more_bits_to_the_first_layers() -> None:
    assert kinds("q4_k_s", "attn_v") == ["Q5_K"] * 4 + ["Q4_K"] * 4
    assert kinds("q4_k_s", "ffn_down", layers=16) == ["Q5_K"] * 2 + ["Q4_K"] * 14
    assert set(kinds("q5_k_s", "attn_v") + kinds("q5_k_s", "ffn_down")) == {"Q5_K"}


def test_first_down_projections_of_the_old_types_get_a_minimum() -> None:
    assert kinds("q4_0", "ffn_down") == ["Q4_1"] + ["Q4_0"] * 7
    assert kinds("q5_0", "ffn_down") == ["Q5_1"] + ["Q5_0"] * 7
    assert set(kinds("q4_1", "ffn_down")) == {"Q4_1"}


@pytest.mark.parametrize(
    ("file_type", "columns", "expected"),
    [
        ("q4_k_m", 512, "Q6_K"),
        ("q4_k_m", 320, "Q8_0"),
        ("q4_0", 512, "Q6_K"),
        ("q4_0", 320, "Q8_0"),
        ("q8_0", 512, "Q8_0"),
        ("q6_k", 512, "Q6_K"),
        ("f16", 512, "F16"),
    ],
)
def test_the_head_and_a_tied_table(file_type: str, columns: int, expected: str) -> None:
    assert tensor_type(file_type, Place("output.weight", columns, 8, is_head=True)) == expected
    assert tensor_type(file_type, Place("token_embd.weight", columns, 8, is_head=True)) == expected


def test_a_table_that_is_only_looked_up_has_the_type_of_the_file() -> None:
    assert tensor_type("q4_k_m", Place("token_embd.weight", 512, 8)) == "Q4_K"


def test_rows_that_are_no_whole_blocks_fall_back() -> None:
    assert kinds("q4_k_s", "attn_q", columns=320)[0] == "Q5_0"
    assert kinds("q4_k_s", "attn_v", columns=320)[0] == "Q5_1"
    assert kinds("q6_k", "attn_q", columns=320)[0] == "Q8_0"
    assert kinds("q4_k_m", "attn_q", columns=172)[0] == kinds("q4_0", "attn_q", columns=172)[0] == "F16"


def test_vectors_norms_and_positions_stay_in_float() -> None:
    assert stays_float("blk.0.attn_norm.weight", 1) and stays_float("blk.0.attn_q.bias", 1)
    assert stays_float("position_embd.weight", 2) and not stays_float("blk.0.attn_q.weight", 2)


def test_recipes_keep_their_meaning_and_have_a_counterpart() -> None:
    assert {file_type_of(load_recipe(name)) for name in RECIPES} <= set(FILE_TYPES)
    assert file_type_of(load_recipe("q4_k_m")) == "q4_k_m" and file_type_of(load_recipe("int4")) == "q4_0"
    for name in ("w4a8", "palette4", "q8-static"):
        assert name in BUILT_IN and file_type_of(load_recipe(name)) is None
        assert "no GGUF file type" in str(TARGET.variants(load_recipe(name))[0].refusal)


def test_a_recipe_of_the_same_name_with_other_rules_has_none() -> None:
    from dataclasses import replace

    changed = replace(load_recipe("q4_k_m"), rules=())
    assert file_type_of(changed) is None
    assert file_type_of(file_type_recipe("q5_0", "")) == "q5_0"
    assert set(TARGET.own_precisions) == set(FILE_TYPES)


def test_the_recipe_of_a_bundle_makes_the_same_file(tmp_path: Path) -> None:
    (spec,) = TARGET.variants(load_recipe("q4_k_m"))
    path = tmp_path / "recipe.yaml"
    path.write_text(TARGET.recipe_of(spec).to_yaml())
    again = load_recipe(str(path))
    assert not again.rules and TARGET.variants(again)[0].id == spec.id == "gguf-q4_k_m"
    assert file_type_of(file_type_recipe("q4_k_x", "")) is None
