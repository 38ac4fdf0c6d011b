import json
import shutil

import pytest

from edgeq.errors import ModelError
from edgeq.exporters import inspect_model, load_model
from edgeq.exporters.causal_lm import load_language_model
from edgeq.exporters.causal_lm.roads import builder_refusal
from edgeq.types import Task


@pytest.fixture
def folder(tiny_decoder, tmp_path):
    shutil.copytree(tiny_decoder("llama"), tmp_path, dirs_exist_ok=True)
    return tmp_path


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_language_model_is_recognized(folder):
    facts = inspect_model(folder)
    assert (facts.architecture, facts.task, facts.is_supported) == ("llama", Task.TEXT_GENERATION, True)


def test_the_encoder_exporter_does_not_take_it(folder):
    with pytest.raises(ModelError, match=r"\(llama\) generates text, expected a text encoder"):
        load_model(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}, "type `mamba` are not supported"),
        ({"auto_map": {"AutoModelForCausalLM": "modeling.M"}}, "needs code of its own"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, r"already quantized \(bitsandbytes\)"),
        ({"rope_scaling": {"rope_type": "proportional"}}, "type `proportional` are not supported"),
        (
            {"rope_scaling": {"rope_type": "longrope", "original_max_position_embeddings": 64}},
            "others for texts of more than 64 tokens",
        ),
        ({"hidden_size": 10**9}, "`hidden_size` in config.json is 1000000000"),
        ({"num_attention_heads": 0}, "`num_attention_heads` in config.json is 0"),
        ({"max_position_embeddings": None}, "names no context length"),
    ],
)
def test_refusals(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(ModelError, match=message):
        load_language_model(folder)


def test_missing_and_damaged_files(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="has no tokenizer"):
        load_language_model(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError):
        load_language_model(folder)


def test_when_the_builder_cannot_be_used():
    config = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 8}
    assert "multiple of 16, this model has 8" in builder_refusal(config)
    assert builder_refusal(config | {"num_attention_heads": 4}) is None
    usable = config | {"num_attention_heads": 4}
    assert "type linear" in builder_refusal(usable | {"rope_scaling": {"type": "linear", "factor": 2.0}})
    assert builder_refusal(usable | {"rope_parameters": {"rope_type": "llama3"}}) is None
    assert "this model rotates 8" in builder_refusal(usable | {"partial_rotary_factor": 0.5})
    assert builder_refusal({"model_type": "gpt2", "n_embd": 64, "n_head": 4}) is not None
