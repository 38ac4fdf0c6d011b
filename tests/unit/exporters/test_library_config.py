"""What sentence-transformers' own settings say: taken, known to change nothing, or refused and named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgeq.errors import ModelError
from edgeq.exporters import inspect_model
from edgeq.exporters.library_config import read_library_config
from edgeq.exporters.sentence import read_sentence_model
from edgeq.types import Task


def change(path: Path, **values: Any) -> None:
    """Keys of a JSON object in a file, which is made where it is missing."""
    document = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(document | values))


@pytest.fixture
def folder(tiny_models, tiny_model, tmp_path) -> Path:
    made = Path(shutil.copytree(tiny_model("bert"), tmp_path / "model"))
    tiny_models.write_sentence_modules(made, ("mean",), dense=8)
    return made


def library(folder: Path, **values: Any) -> None:
    change(folder / "config_sentence_transformers.json", **values)


def test_settings_that_are_taken(folder):
    prompts = {"query": "query: ", "document": "passage: ", "empty": ""}
    library(folder, prompts=prompts, default_prompt_name="query", truncate_dim=4, similarity_fn_name="dot")
    change(folder / "sentence_bert_config.json", max_seq_length=32, do_lower_case=True)
    found = read_library_config(folder, folder)
    assert (found.prompts, found.default_prompt) == ({"query": "query: ", "document": "passage: "}, "query")
    assert (found.truncate_dim, found.max_length, found.lower_case) == (4, 32, True)
    assert found.refusals == ()
    facts = inspect_model(folder)
    assert facts.refusal is None
    said = " ".join(facts.notices)
    assert "'query: '" in said and "query unless another is asked for" in said and "`dot`" in said


def test_an_older_name_of_the_transformers_settings(folder):
    change(folder / "sentence_roberta_config.json", max_seq_length=16, do_lower_case=True)
    found = read_library_config(folder, folder)
    assert (found.max_length, found.lower_case) == (16, True)


def test_a_plain_folder_says_nothing(folder):
    assert inspect_model(folder).notices == ()


def test_unknown_keys_are_named(folder):
    library(folder, charm=3)
    change(folder / "sentence_bert_config.json", strangeness=1)
    said = " ".join(inspect_model(folder).notices)
    assert "charm" in said and "strangeness" in said


@pytest.mark.parametrize(
    ("file", "values", "named"),
    [
        ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "SparseEncoder"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "head `fill-mask`"),
        ("sentence_bert_config.json", {"query_length": 32}, "query_length"),
        ("sentence_bert_config.json", {"processing_kwargs": {"text": {"padding": "max_length"}}}, "processing_kwargs"),
        ("sentence_bert_config.json", {"modality_config": {"text": {"method": "x"}}}, "modality_config"),
        ("sentence_bert_config.json", {"modality_config": 3}, "modality_config"),
        ("sentence_bert_config.json", {"module_output_name": "x"}, "module_output_name"),
        ("sentence_bert_config.json", {"tokenizer_args": {"padding_side": "left"}}, "padding_side='left'"),
        ("2_Dense/config.json", {"charm": 1}, "sets charm"),
        ("2_Dense/config.json", {"module_input_name": "token_embeddings"}, "reads `token_embeddings`"),
        ("2_Dense/config.json", {"module_output_name": "scores"}, "does not read `scores`"),
        ("2_Dense/config.json", {"activation_function": "mine.GELU"}, "activation `mine.GELU`"),
        ("1_Pooling/config.json", {"charm": 1}, "sets charm"),
    ],
)  # fmt: skip
def test_what_changes_the_result_is_refused_and_the_hint_works(folder, file, values, named):
    change(folder / file, **values)
    facts = inspect_model(folder)
    if "activation" in named:  # found where the weights are read
        with pytest.raises(ModelError, match=named):
            read_sentence_model(folder).head(Task.SENTENCE_EMBEDDING, 64)
        return
    assert facts.refusal is not None and named in facts.refusal.message
    assert "--task feature-extraction" in facts.refusal.hint
    assert inspect_model(folder, task="feature-extraction").refusal is None


def test_prompts_left_out_of_pooling(folder):
    change(folder / "1_Pooling/config.json", include_prompt=False)
    assert inspect_model(folder).refusal is None
    library(folder, prompts={"query": "query: "})
    assert "include_prompt" in inspect_model(folder).refusal.message


@pytest.mark.parametrize(
    "values",
    [
        {"prompts": ["query: "]},
        {"prompts": {"query": 3}},
        {"prompts": {}, "default_prompt_name": "query"},
        {"default_prompt_name": ["query"]},
        {"truncate_dim": 0},
        {"truncate_dim": True},
    ],
)
def test_malformed_settings(folder, values):
    library(folder, **values)
    with pytest.raises(ModelError, match=r"config_sentence_transformers\.json"):
        inspect_model(folder)


def test_a_cross_encoder_saved_with_modules(tiny_model, tmp_path):
    folder = Path(shutil.copytree(tiny_model("bert", "sequence-classification"), tmp_path / "model"))
    (folder / "modules.json").write_text('[{"idx": 0, "path": "", "type": "x.Transformer"}]')
    library(folder, model_type="CrossEncoder", activation_fn="torch.nn.modules.activation.Sigmoid")
    change(folder / "sentence_bert_config.json", transformer_task="sequence-classification")
    for task in (None, "sequence-classification"):
        facts = inspect_model(folder, task=task)
        assert (facts.task, facts.refusal) == (Task.SEQUENCE_CLASSIFICATION, None)
        assert any("Sigmoid" in notice for notice in facts.notices)
    assert Task.SENTENCE_EMBEDDING not in facts.tasks


def test_a_cross_encoder_of_modules_is_a_scorer(folder):
    change(folder / "2_Dense/config.json", module_output_name="scores")
    (folder / "modules.json").write_text(json.dumps(json.loads((folder / "modules.json").read_text())[:3]))
    library(folder, model_type="CrossEncoder")
    assert (inspect_model(folder).task, inspect_model(folder).refusal) == (Task.SEQUENCE_CLASSIFICATION, None)
    # The negative twin: as an embedder nothing reads its scores.
    library(folder, model_type="SentenceTransformer")
    assert "`scores`" in inspect_model(folder).refusal.message


def test_a_transformer_alone_gives_no_vector(folder):
    (folder / "modules.json").write_text('[{"idx": 0, "path": "", "type": "x.Transformer"}]')
    assert "expected Transformer and Pooling" in inspect_model(folder).refusal.message
    assert inspect_model(folder, task="feature-extraction").refusal is None


def test_a_pickled_classifier_on_top(folder):
    (folder / "model_head.pkl").write_bytes(b"never opened")
    refusal = inspect_model(folder).refusal
    assert "model_head.pkl" in refusal.message and "--task sentence-embedding" in refusal.hint
    assert inspect_model(folder, task="sentence-embedding").refusal is None


@pytest.mark.parametrize(
    ("key", "value", "is_refused"),
    [("position_embedding_type", "relative_key", True), ("position_embedding_type", "absolute", False)],
)
def test_keys_that_transformers_no_longer_reads(folder, key, value, is_refused):
    change(folder / "config.json", **{key: value})
    refusal = inspect_model(folder).refusal
    assert (refusal is not None and key in refusal.message) is is_refused
