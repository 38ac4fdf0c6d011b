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
