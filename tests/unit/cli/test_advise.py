"""`edgeq advise`."""

from __future__ import annotations

import json

import pytest

from edgeq.cli import run_command_line as run

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
}


@pytest.fixture
def model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return str(tmp_path)


def test_a_table_and_a_recommendation(model, capsys):
    assert run(["advise", model, "--ram", "16GB"]) == 0
    shown = capsys.readouterr()
    assert "q4_k_m" in shown.out and "expected quality" in shown.out
    assert "budget 8 GB: 50% of 16 GB" in shown.err
    assert "take q8: " in shown.err and "--precision q8" in shown.err


def test_json_alone_on_stdout(model, capsys):
    assert run(["advise", model, "--ram", "16GB", "--json", "--tolerance", "high"]) == 0
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert document["recommendation"]["recipe"] in [found["recipe"] for found in document["recipes"]]
    assert document["roles"]["embedding"] == 2048 * 128256 and shown.err == ""


@pytest.fixture
def encoder(tmp_path):
    config = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 1000,
        "max_position_embeddings": 64,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return str(tmp_path)


def test_a_small_model_has_parameters(encoder, capsys):
    assert run(["advise", encoder, "--ram", "1GB"]) == 0
    shown = capsys.readouterr().err
    assert "bert, 0.1 M parameters" in shown and "not weighed" not in shown


def test_recipes_without_costs_are_named(encoder, capsys):
    """Every recipe that the target takes is weighed or named."""
    assert run(["advise", encoder, "--ram", "1GB", "--target", "coreml", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["not_weighed"] == ["palette6", "palette4"]
    assert not {"palette6", "palette4"} & {option["recipe"] for option in document["recipes"]}
    assert run(["advise", encoder, "--ram", "1GB", "--target", "coreml"]) == 0
    assert "not weighed: palette6, palette4, which coreml takes" in capsys.readouterr().err


def test_nothing_fits(model, capsys):
    assert run(["advise", model, "--ram", "512MB", "--json"]) == 1
    shown = capsys.readouterr()
    assert json.loads(shown.out)["recommendation"]["recipe"] is None
    assert "error: nothing fits 256 MB" in shown.err and "hint: a shorter --context" in shown.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--ram", "4"], 2, "--ram got `4`"),
        (["--ram", "4GB", "--tolerance", "none"], 2, "--tolerance got `none`"),
        (["--ram", "4GB", "--target", "toaster"], 2, "unknown target"),
        (["--ram", "4GB", "--context", "999999"], 1, "--context 999999 does not fit"),
        ([], 2, "--ram"),
    ],
)
def test_refusals(model, capsys, arguments, code, message):
    assert run(["advise", model, *arguments]) == code
    assert message in capsys.readouterr().err


def test_no_such_model(capsys):
    assert run(["advise", "./nowhere/at/all", "--ram", "4GB"]) == 1
    assert "no folder" in capsys.readouterr().err
