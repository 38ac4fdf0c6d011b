"""Sentence-transformers modules against their definitions, written out in numpy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from edgeq.errors import ModelError
from edgeq.exporters import inspect_model
from edgeq.exporters.loading import _source
from edgeq.exporters.sentence import POOLING, build_sentence_head, read_sentence_model
from edgeq.types import Task

HIDDEN = np.random.default_rng(3).normal(size=(3, 6, 32)).astype(np.float32)
MASK = np.array([[1] * 6, [1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]], np.float32)


def pooled(mode: str, row: int) -> np.ndarray:
    """One row, by definition, in float64."""
    length = int(MASK[row].sum())
    tokens = HIDDEN[row, :length].astype(np.float64)
    weights = np.arange(1, length + 1)[:, None]
    return {
        "cls": lambda: tokens[0],
        "max": lambda: tokens.max(0),
        "mean": lambda: tokens.mean(0),
        "mean_sqrt_len_tokens": lambda: tokens.sum(0) / np.sqrt(length),
        "weightedmean": lambda: (tokens * weights).sum(0) / weights.sum(),
        "lasttoken": lambda: tokens[-1],
    }[mode]()


@pytest.fixture
def folder(tiny_model, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_model("bert", Task.FEATURE_EXTRACTION), tmp_path / "model"))


def run(folder: Path, mask: np.ndarray = MASK) -> np.ndarray:
    sentence = read_sentence_model(folder)
    assert sentence is not None
    if sentence.refusal is not None:
        raise sentence.refusal
    with torch.inference_mode():
        vector = build_sentence_head(sentence.modules, 64)(torch.from_numpy(HIDDEN), torch.from_numpy(mask))
    return np.asarray(vector.numpy())


@pytest.mark.parametrize("mode", sorted(POOLING))
def test_pooling(tiny_models, folder, mode):
    tiny_models.write_sentence_modules(folder, (mode,), normalize=False)
    got = run(folder)
    # One float32 sum of at most six terms near 1; the largest and the first token are copied.
    for row in range(3):
        np.testing.assert_allclose(got[row], pooled(mode, row), atol=2e-6)


@pytest.mark.parametrize("mode", sorted(set(POOLING) - {"cls"}))
def test_pooling_depends_on_the_mask(tiny_models, folder, mode):
    """The negative twin: without the mask, rows with padding come out different."""
    tiny_models.write_sentence_modules(folder, (mode,), normalize=False)
    got = run(folder, np.ones_like(MASK))
    assert np.abs(got[1] - pooled(mode, 1)).max() > 1e-2


def test_modes_are_joined_in_order(tiny_models, folder):
    tiny_models.write_sentence_modules(folder, ("mean", "cls"), normalize=False)
    np.testing.assert_allclose(run(folder)[1], [*pooled("cls", 1), *pooled("mean", 1)], atol=2e-6)


def test_dense_and_normalize(tiny_models, folder):
    from safetensors.numpy import load_file

    tiny_models.write_sentence_modules(folder, ("mean",), dense=8)
    weights = load_file(folder / "2_Dense" / "model.safetensors")
    linear = pooled("mean", 0) @ weights["linear.weight"].T.astype(np.float64) + weights["linear.bias"]
    expected = np.tanh(linear) / np.linalg.norm(np.tanh(linear))
    np.testing.assert_allclose(run(folder)[0], expected, atol=2e-6)
    assert np.linalg.norm(run(folder), axis=-1) == pytest.approx([1, 1, 1], abs=1e-6)


def test_the_newer_way_to_name_a_mode(tiny_models, folder):
    tiny_models.write_sentence_modules(folder, ("mean",), normalize=False)
    path = folder / "1_Pooling" / "config.json"
    path.write_text(json.dumps({"word_embedding_dimension": 32, "pooling_mode": "lasttoken"}))
    np.testing.assert_allclose(run(folder)[1], pooled("lasttoken", 1), atol=1e-6)


def test_facts_of_a_sentence_model(tiny_models, folder):
    tiny_models.write_sentence_modules(folder, ("mean",))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 32}')
    assert inspect_model(folder).task is Task.SENTENCE_EMBEDDING
    assert inspect_model(folder, task="feature-extraction").task is Task.FEATURE_EXTRACTION
    sentence = read_sentence_model(folder)
    assert sentence is not None
    assert sentence.max_length == 32


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        ("modules.json", "{", "cannot read"),
        (
            "modules.json",
            '[{"idx": 0, "path": "", "type": "x.WordEmbeddings"}]',
            "expected Transformer and Pooling",
        ),
        ("modules.json", '[{"idx": 0, "type": "x.Transformer"}]', "malformed .*'path'"),
        ("modules.json", '{"idx": 0}', "malformed"),
        (
            "modules.json",
            '[{"idx": 0, "path": "../other", "type": "x.Transformer"}]',
            r"names the folder `\.\./other`, expected one inside",
        ),
        (
            "modules.json",
            '[{"idx": 0, "path": "/etc", "type": "x.Transformer"}]',
            "names the folder `/etc`, expected one inside",
        ),
        ("sentence_bert_config.json", '{"max_seq_length": "x"}', "max_seq_length .* is 'x'"),
        ("sentence_bert_config.json", '{"max_seq_length": -5}', "max_seq_length .* is -5"),
        ("sentence_bert_config.json", "[]", "holds a list, expected a JSON object"),
        ("1_Pooling/config.json", "[]", "holds a list, expected a JSON object"),
        ("2_Dense/config.json", '{"in_features": "a", "out_features": 8}', r"\['a', 8\], expected sizes"),
        ("1_Pooling/config.json", '{"pooling_mode": "median"}', "pooling mode .*median"),
        ("1_Pooling/config.json", "{}", "pooling mode none"),
        ("2_Dense/config.json", '{"in_features": 32, "out_features": 9}', "do not fit"),
        (
            "2_Dense/config.json",
            '{"in_features": 32, "out_features": 8, "activation_function": "os.system"}',
            "activation `os.system`",
        ),
    ],
)
def test_modules_that_cannot_be_read(tiny_models, folder, file, content, match):
    tiny_models.write_sentence_modules(folder, ("mean",), dense=8)
    (folder / file).write_text(content)
    with pytest.raises(ModelError, match=match):
        run(folder)


def test_weights_of_every_module_are_hashed(tiny_models, folder):
    tiny_models.write_sentence_modules(folder, ("mean",), dense=8)
    sentence = read_sentence_model(folder)
    parts = [part.folder for part in sentence.modules if part.has_weights]
    model = SimpleNamespace(config=SimpleNamespace(to_dict=dict), parameters=list)
    found = _source(inspect_model(folder), [folder, *parts], model)
    assert {"model.safetensors", "2_Dense/model.safetensors", "2_Dense/config.json"} <= {
        file.path for file in found.files
    }


def test_an_unknown_module(tiny_models, folder):
    tiny_models.write_sentence_modules(folder, ("mean",))
    path = folder / "modules.json"
    path.write_text(path.read_text().replace("models.Normalize", "models.Router"))
    with pytest.raises(ModelError, match="module `Router`"):
        run(folder)
    # The transformer alone is another model, whose hint works.
    assert inspect_model(folder).refusal is not None
    assert inspect_model(folder, task="feature-extraction").refusal is None
