"""Sizes from configs against the models transformers makes of them (on the meta device: no weights)."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
import transformers

from edgeq.errors import ModelError
from edgeq.exporters import ARCHITECTURES
from edgeq.exporters.shapes import model_shape, read_shape
from edgeq.families import SHAPES
from edgeq.quantize.recipes import layer_refs

ENCODER = {
    "vocab_size": 120,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
DECODER = {**ENCODER, "num_key_value_heads": 2, "head_dim": 16, "bos_token_id": 1, "eos_token_id": 2}
# model_type, class prefix, what its config takes
CASES = [
    ("bert", "Bert", ENCODER),
    ("roberta", "Roberta", {**ENCODER, "type_vocab_size": 1}),
    ("xlm-roberta", "XLMRoberta", {**ENCODER, "type_vocab_size": 1}),
    ("mpnet", "MPNet", ENCODER),
    ("electra", "Electra", {**ENCODER, "embedding_size": 24}),
    ("electra", "Electra", {**ENCODER, "embedding_size": 48}),
    ("albert", "Albert", {**ENCODER, "embedding_size": 24, "num_hidden_groups": 1}),
    (
        "distilbert",
        "DistilBert",
        {
            "vocab_size": 120,
            "dim": 48,
            "n_layers": 3,
            "n_heads": 4,
            "hidden_dim": 80,
            "max_position_embeddings": 64,
        },
    ),
    ("deberta-v2", "DebertaV2", ENCODER),
    (
        "deberta-v2",
        "DebertaV2",
        {
            **ENCODER,
            "relative_attention": True,
            "position_buckets": 16,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
    ),
    (
        "deberta-v2",
        "DebertaV2",
        {**ENCODER, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "conv_kernel_size": 3},
    ),
    ("modernbert", "ModernBert", {**ENCODER, **SPECIAL}),
    (
        "modernbert",
        "ModernBert",
        {**ENCODER, **SPECIAL, "norm_bias": True, "attention_bias": True, "mlp_bias": True},
    ),
    ("llama", "Llama", DECODER),
    ("llama", "Llama", {**DECODER, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    ("mistral", "Mistral", DECODER),
    ("qwen2", "Qwen2", {k: v for k, v in DECODER.items() if k != "head_dim"}),
    ("qwen3", "Qwen3", DECODER),
    ("gemma", "Gemma", DECODER),
    ("gemma2", "Gemma2", DECODER),
    ("gemma3_text", "Gemma3Text", DECODER),
    ("phi3", "Phi3", {k: v for k, v in DECODER.items() if k != "head_dim"}),
    ("gpt2", "GPT2", {"vocab_size": 120, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 64}),
]
CAUSAL = {"gpt2": "GPT2LMHeadModel", "gemma3_text": "Gemma3ForCausalLM"}


def build(model_type, prefix, values, suffix):
    """A model and its saved config."""
    name = CAUSAL.get(model_type, f"{prefix}{suffix}") if suffix == "ForCausalLM" else f"{prefix}{suffix}"
    config = getattr(transformers, f"{prefix}Config")(**values)
    with torch.device("meta"):
        model = getattr(transformers, name)(config)
    return model, {**config.to_dict(), "architectures": [name], "model_type": model_type}


def sizes_of(model):
    """Parameters of a model: matrices by their sides, in any order, and all others together."""
    kept = {
        name: p
        for name, p in model.named_parameters()
        if ".pooler." not in f".{name}" or "Seq" in type(model).__name__
    }
    flat = {name: (p.flatten(1).shape if p.ndim > 2 else p.shape) for name, p in kept.items()}
    matrices = Counter(tuple(sorted(shape)) for shape in flat.values() if len(shape) == 2)
    return matrices, sum(shape[0] for shape in flat.values() if len(shape) == 1)


def sizes_from(shape):
    return Counter(tuple(sorted(sides)) for _, sides in shape.matrices), shape.vectors


@pytest.mark.parametrize(
    ("model_type", "prefix", "values"), CASES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_parameters_are_those_of_the_model(model_type, prefix, values):
    model, config = build(
        model_type, prefix, values, "Model" if model_type in ARCHITECTURES else "ForCausalLM"
    )
    assert sizes_from(model_shape(config, "m")) == sizes_of(model)


HEADS = ["ForMaskedLM", "ForTokenClassification", "ForQuestionAnswering", "ForSequenceClassification"]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("case", [0, 1, 3, 4, 6, 7, 9, 11], ids=lambda i: CASES[i][0])
def test_heads_are_within_one_percent_of_a_small_model(case, head):
    # Families differ in biases and in a dense layer of the head; of a real model that is less than 1 %.
    model_type, prefix, values = CASES[case]
    width = 192 if "hidden_size" in values else 0
    values = {
        **values,
        **(
            {"hidden_size": width, "intermediate_size": 4 * width}
            if width
            else {"dim": 192, "hidden_dim": 768}
        ),
    }
    values |= {"vocab_size": 8000} | ({"embedding_size": 96} if "embedding_size" in values else {})
    model, config = build(model_type, prefix, {**values, "num_labels": 2 if "Question" in head else 5}, head)
    assert model_shape(config, "m").parameters == pytest.approx(
        sum(p.numel() for p in model.parameters()), rel=0.01
    )


def test_every_architecture_is_tested():
    assert {case[0] for case in CASES} == {*ARCHITECTURES, *SHAPES}


@pytest.mark.parametrize(
    ("model_type", "prefix", "values"), CASES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_every_matrix_has_a_role(model_type, prefix, values):
    _, config = build(model_type, prefix, values, "Model" if model_type in ARCHITECTURES else "ForCausalLM")
    shape = model_shape(config, "m")
    refs = layer_refs(shape.matrices, shape.tied)
    odd = {ref.name for ref in refs if ref.role == "other"}
    allowed = (
        "relative_attention_bias",
        "embeddings_project",
        "embedding_hidden_mapping_in",
        "conv",
        "pos_key_proj",
        "pos_query_proj",
    )
    assert {name for name in odd if not name.endswith(allowed)} == set()
    assert max(ref.layer_count for ref in refs) == (1 if model_type == "albert" else shape.layers)


@pytest.mark.parametrize("class_name", ["Llama", "Gemma2", "Qwen3", "Bert"])
def test_keys_that_a_config_leaves_out(class_name):
    # What save_pretrained writes with everything at the class's defaults, without the keys older files lack.
    config = getattr(transformers, f"{class_name}Config")(num_hidden_layers=2, pad_token_id=0)
    values = config.to_diff_dict()
    with torch.device("meta"):
        suffix = "Model" if class_name == "Bert" else "ForCausalLM"
        model = getattr(transformers, f"{class_name}{suffix}")(config)
    assert sizes_from(model_shape(values, "m")) == sizes_of(model)


def test_gemma3_with_a_vision_tower_gives_its_language_model():
    text = transformers.Gemma3TextConfig(**DECODER).to_dict()
    assert model_shape({"model_type": "gemma3", "text_config": text}, "m") == model_shape(text, "m")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "has no `hidden_size`"),
        ({"hidden_size": "48"}, "is '48'; expected a number above 0"),
        ({"num_hidden_layers": -2}, "is -2; expected a number above 0"),
        ({"vocab_size": True}, "is True"),
    ],
)
def test_configs_that_do_not_say(change, message):
    with pytest.raises(ModelError, match=message):
        model_shape({"model_type": "llama", **DECODER, **change}, "m")


def test_unknown_architectures():
    with pytest.raises(ModelError, match="no sizes are known for architecture `lama`") as caught:
        model_shape({"model_type": "lama"}, "m")
    assert "llama" in caught.value.hint


def test_read_shape_of_folders(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **DECODER}))
    shape, folder = read_shape(str(tmp_path))
    assert folder == tmp_path and shape.causal and shape.kv_heads == 2
    with pytest.raises(ModelError, match="is an ONNX file"):
        read_shape("model.onnx")
    with pytest.raises(ModelError, match=r"no config\.json"):
        read_shape(str(tmp_path.parent))


def test_a_hub_id_needs_no_weights(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **DECODER}))
    asked = []

    def fetch(model, revision, *, config_only):
        asked.append((model, revision, config_only))
        return tmp_path

    monkeypatch.setattr("edgeq.exporters.shapes.fetch", fetch)
    assert read_shape("someone/model", "v1")[0].layers == 3
    assert asked == [("someone/model", "v1", True)]


def test_the_transformer_of_a_sentence_transformers_folder(tmp_path):
    modules = [
        {"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    for name, config in (
        ("0_Transformer", {"model_type": "bert", **ENCODER}),
        ("1_Pooling", {"word_embedding_dimension": 48, "pooling_mode_mean_tokens": True}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    shape, folder = read_shape(str(tmp_path))
    assert folder.name == "0_Transformer" and shape.architecture == "bert"
