"""edgeq's reading of a folder beside the folder's own library, from text.

The expected numbers come from `SentenceTransformer.encode` and `CrossEncoder.predict`, called here, not through edgeq.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeq.errors import ModelError
from edgeq.exporters import ARCHITECTURES, inspect_model, load_model
from edgeq.exporters.checkpoint import load_encoder, quiet_transformers
from edgeq.exporters.equivalence import check_equivalence, longest_that_fits, run_graph, unchecked_lengths
from edgeq.exporters.library import check_reading, open_library
from edgeq.exporters.original import open_original
from edgeq.exporters.reference import original
from edgeq.exporters.text_encoder import input_specs
from edgeq.exporters.tokenizer import follow_types, load_tokenizer, text_preprocessor
from edgeq.samples import Text, TextPair, as_samples
from edgeq.types import Role, Task, TensorSpec

TEXTS = ["the cat went home at noon", "Rain OVER the Sky", "a dog"]
PAIRS = [("the cat", "Rain OVER the Sky"), ("a dog", "went home")]


def module_folder(folder: Path, index: int, kind: str, config: dict[str, Any], **tensors: Any) -> None:
    from safetensors.torch import save_file

    place = folder / f"{index}_{kind}"
    place.mkdir(exist_ok=True)
    (place / "config.json").write_text(json.dumps(config))
    if tensors:
        save_file(
            {name.replace("__", "."): tensor for name, tensor in tensors.items()}, place / "model.safetensors"
        )


def tokenizer_config(folder: Path, **values: Any) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def read_by_edgeq(folder: Path, task: Task) -> tuple[Any, Any]:
    """edgeq's tokenizer and forward of a plain folder, without the graph."""
    spec = ARCHITECTURES["bert"]
    tokenizer, names = load_tokenizer(folder), [one.name for one in input_specs(2)]
    follow_types(tokenizer, folder)
    model = load_encoder(folder, spec, task)
    return text_preprocessor(tokenizer, max_length=64, input_names=names), original(model, task)


def write_modules(folder: Path, kinds: list[str]) -> None:
    entries = [
        {
            "idx": index,
            "path": f"{index}_{kind}" if index else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        | {"name": str(index)}
        for index, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))


@pytest.fixture(scope="module")
def embedder(tiny_model, tmp_path_factory) -> Path:
    """Everything at once: prompts, lower-casing of a cased tokenizer, Dense after Dense, a residual, a cut vector."""
    import torch

    folder = Path(shutil.copytree(tiny_model("bert"), tmp_path_factory.mktemp("embedder") / "model"))
    torch.manual_seed(5)
    write_modules(folder, ["Transformer", "Pooling", "Dense", "Dense", "Normalize"])
    module_folder(folder, 1, "Pooling", {"word_embedding_dimension": 32, "pooling_mode": ["cls", "mean"]})
    gelu = {
        "in_features": 64,
        "out_features": 16,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.GELU",
    }
    module_folder(folder, 2, "Dense", gelu, linear__weight=torch.randn(16, 64), linear__bias=torch.randn(16))
    residual = {"in_features": 16, "out_features": 12, "bias": False, "use_residual": True}
    module_folder(
        folder, 3, "Dense", residual, linear__weight=torch.randn(12, 16), residual__weight=torch.randn(12, 16)
    )
    (folder / "4_Normalize").mkdir()
    document = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(document | {"normalizer": None}))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 40, "do_lower_case": true}')
    settings = {
        "prompts": {"query": "query: ", "document": "passage: "},
        "default_prompt_name": "query",
        "truncate_dim": 5,
    }
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def exported_embedder(embedder) -> Any:
    return load_model(embedder)


def library_model(kind: str, folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import sentence_transformers

        return getattr(sentence_transformers, kind)(str(folder), device="cpu", local_files_only=True)


def test_an_embedder_gives_what_encode_gives(embedder, exported_embedder):
    model = library_model("SentenceTransformer", embedder)
    run, ours = run_graph(exported_embedder.canonical), exported_embedder.preprocessor
    for names, preprocessor in (
        ({}, ours),
        ({"prompt_name": "document"}, ours.with_role("document")),
        ({"prompt_name": "query"}, ours.with_role("query")),
    ):
        expected = model.encode(TEXTS, show_progress_bar=False, **names)
        got = run(preprocessor(as_samples(TEXTS)))["sentence_embedding"]
        assert got.shape == expected.shape == (3, 5)
        # Unit vectors, float32 sums of some hundred terms.
        np.testing.assert_allclose(got, expected, atol=2e-5)
    # The negative twins: another role, and no prompt, are other vectors.
    queries = run(ours(as_samples(TEXTS)))["sentence_embedding"]
    assert (
        np.abs(queries - expected).max()
        < 1e-4
        < np.abs(queries - run(ours.with_role("document")(as_samples(TEXTS)))["sentence_embedding"]).max()
    )
    assert (
        np.abs(queries - run(ours.with_prompts({}, None)(as_samples(TEXTS)))["sentence_embedding"]).max()
        > 1e-3
    )


def test_what_is_not_read_is_found_against_the_library(embedder, exported_embedder):
    facts = inspect_model(embedder)
    outputs, reference = exported_embedder.canonical.outputs, exported_embedder.reference
    assert check_reading(facts, exported_embedder.preprocessor, reference, outputs) == ()
    for wrong in (
        exported_embedder.preprocessor.with_prompts({}, None),
        exported_embedder.preprocessor.with_role("document"),
    ):
        with pytest.raises(ModelError, match=r"reads the model otherwise than SentenceTransformer\.encode"):
            check_reading(facts, wrong, reference, outputs)


def test_without_the_library_it_is_said(embedder, exported_embedder, monkeypatch):
    from edgeq.exporters import library
    from edgeq.exporters import original as module

    monkeypatch.setattr(library, "find_spec", lambda name: None)
    # Exporting it again would give the same.
    monkeypatch.setattr(module, "load_model", lambda *_, **__: exported_embedder)
    [notice] = check_reading(
        inspect_model(embedder),
        exported_embedder.preprocessor,
        exported_embedder.reference,
        exported_embedder.canonical.outputs,
    )
    assert "sentence-transformers is not installed" in notice
    found = open_original(embedder, Task.SENTENCE_EMBEDDING, 64)
    assert not found.is_library and "edgeq makes" in found.name and "not installed" in found.notices[0]


def test_a_cross_encoder_of_modules_gives_what_predict_gives(tiny_model, tmp_path):
    import torch

    folder = Path(shutil.copytree(tiny_model("bert"), tmp_path / "model"))
    write_modules(folder, ["Transformer", "Pooling", "Dense", "Dense"])
    module_folder(folder, 1, "Pooling", {"word_embedding_dimension": 32, "pooling_mode": "cls"})
    gelu = {"in_features": 32, "out_features": 32, "activation_function": "torch.nn.modules.activation.GELU"}
    module_folder(folder, 2, "Dense", gelu, linear__weight=torch.randn(32, 32), linear__bias=torch.randn(32))
    last = {
        "in_features": 32,
        "out_features": 1,
        "activation_function": "torch.nn.modules.linear.Identity",
        "module_output_name": "scores",
    }
    module_folder(folder, 3, "Dense", last, linear__weight=torch.randn(1, 32), linear__bias=torch.randn(1))
    (folder / "config_sentence_transformers.json").write_text('{"model_type": "CrossEncoder"}')
    tokenizer_config(folder, tokenizer_class="BertTokenizer")
    exported = load_model(folder)
    [spec] = exported.canonical.outputs
    assert (spec.role, spec.shape) == (Role.LOGITS, ("batch", 1)) and exported.source.labels == ()
    expected = library_model("CrossEncoder", folder).predict(PAIRS, activation_fn=torch.nn.Identity())
    got = run_graph(exported.canonical)(exported.preprocessor(as_samples(PAIRS)))["logits"][:, 0]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(got - expected[::-1]).max() > 1e-3
    found, _ = open_library(inspect_model(folder))
    assert found is not None
    assert found.run_one(TextPair(*PAIRS[0]))["logits"][0, 0] == pytest.approx(expected[0], rel=1e-4)
    assert found.run_one(Text("the cat"))["logits"].shape == (1, 1)


@pytest.mark.parametrize(
    "task", ["feature-extraction", "token-classification", "fill-mask", "question-answering"]
)
def test_other_tasks_are_run_by_transformers(tiny_model, task):
    folder = tiny_model("bert", task)
    found = open_original(folder, Task(task), 64)
    sample: Any = PAIRS[0] if task == "question-answering" else TEXTS[0]
    preprocessor, reference = read_by_edgeq(folder, Task(task))
    expected, got = found.run(as_samples([sample]))[0], reference(preprocessor(as_samples([sample])))
    assert found.is_library and expected.keys() == got.keys()
    for name in got:
        np.testing.assert_allclose(got[name], expected[name], atol=1e-4)


def test_a_classifier_gives_the_scores_of_its_pipeline(tiny_model):
    from transformers import pipeline

    from edgeq.runtime.postprocess import softmax

    folder = tiny_model("bert", "sequence-classification")
    found = open_original(folder, Task.SEQUENCE_CLASSIFICATION, 64)
    scores = softmax(found.run_one(Text(TEXTS[0]))["logits"])[0]
    with quiet_transformers():
        [answers] = pipeline("text-classification", model=str(folder), top_k=None, device="cpu")([TEXTS[0]])
    assert sorted(scores.tolist(), reverse=True) == pytest.approx(
        [answer["score"] for answer in answers], abs=1e-5
    )


@pytest.mark.parametrize(
    ("config", "types", "notices"),
    [
        ({"tokenizer_class": "BertTokenizer"}, {0, 1}, 0),
        # transformers 5 drops what the file marks; transformers 4 did not.
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, {0, 1}, 1),
        ({"model_input_names": ["input_ids", "attention_mask"]}, {0}, 0),
    ],
)
def test_which_text_a_token_is_of(tiny_model, tmp_path, config, types, notices):
    folder = Path(shutil.copytree(tiny_model("bert", "sequence-classification"), tmp_path / "model"))
    tokenizer_config(folder, **config)
    task = Task.SEQUENCE_CLASSIFICATION
    preprocessor, reference = read_by_edgeq(folder, task)
    feeds = preprocessor(as_samples([PAIRS[0]]))
    assert set(feeds["token_type_ids"].ravel().tolist()) == types
    found = open_original(folder, task, 64)
    assert len(found.notices) == notices
    np.testing.assert_allclose(
        reference(feeds)["logits"], found.run_one(TextPair(*PAIRS[0]))["logits"], atol=1e-4
    )
    # The negative twin: the other types are other logits.
    other = feeds | {"token_type_ids": 1 - feeds["token_type_ids"]}
    assert np.abs(reference(other)["logits"] - reference(feeds)["logits"]).max() > 1e-3


def test_an_error_beyond_the_usual_long_text_is_found(tiny_model, monkeypatch):
    from edgeq.exporters import equivalence

    folder = tiny_model("bert", "feature-extraction", max_position_embeddings=640)
    preprocessor, reference = read_by_edgeq(folder, Task.FEATURE_EXTRACTION)
    preprocessor = preprocessor.fit(640)
    spec = TensorSpec("last_hidden_state", "float32", ("batch", "sequence", 32), Role.LAST_HIDDEN_STATE)
    graph: Any = SimpleNamespace(outputs=(spec,))

    def wrong(feeds: Any) -> Any:
        found = {name: array.copy() for name, array in reference(feeds).items()}
        found["last_hidden_state"][:, 600:] += 0.1
        return found

    monkeypatch.setattr(equivalence, "run_graph", lambda _: reference)
    check_equivalence(graph, preprocessor, reference)
    with pytest.raises(ModelError, match="does not compute what the model does"):
        check_equivalence(graph, preprocessor, wrong)
    # Where memory bounds the check, what was left out is said.
    check_equivalence(graph, preprocessor, wrong, longest=512)
    assert "up to 512 of 640 tokens" in unchecked_lengths(512, 640)[0]
    assert unchecked_lengths(640, 640) == ()


def test_the_longest_text_follows_the_free_memory(monkeypatch):
    from edgeq.exporters import equivalence

    monkeypatch.setattr(equivalence, "free_memory", lambda: 1 << 30)
    assert 512 < longest_that_fits(8192, 12) < 8192
    monkeypatch.setattr(equivalence, "free_memory", lambda: 1 << 20)
    assert longest_that_fits(8192, 12) == 512
    monkeypatch.setattr(equivalence, "free_memory", lambda: None)
    assert longest_that_fits(8192, 12) == 8192


def test_an_original_whose_head_has_no_weights_is_refused(tiny_model):
    """transformers would fill it with random numbers, and the bundle would look wrong."""
    with pytest.raises(ModelError, match="has no weights for"):
        open_original(tiny_model("bert"), Task.TOKEN_CLASSIFICATION, 64)
