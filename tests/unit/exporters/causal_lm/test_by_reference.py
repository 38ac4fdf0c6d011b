"""Graphs whose weights are references equal those of models in memory; the original reads as it runs."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.errors import ModelError
from edgeq.exporters.causal_lm import load_language_model, load_original, streamed_forward
from edgeq.exporters.causal_lm.export import specs_of
from edgeq.exporters.causal_lm.normalize import declare
from edgeq.exporters.causal_lm.recording import Recording
from edgeq.exporters.causal_lm.without_matrices import decoder_without_matrices
from edgeq.families import FAMILIES
from edgeq.graph.streamed_tensor import StreamedTensor, streamed

pytest.importorskip("onnxruntime_genai")

TIED = ("llama", {"tie_word_embeddings": True})
BIASED = ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1})
SMALL_HEADS = ("llama", {"head_dim": 8, "num_hidden_layers": 1, "tie_word_embeddings": True})
CASES = [*((family, {}) for family in FAMILIES), TIED, BIASED, SMALL_HEADS]


def bytes_of(model):
    return ir.to_proto(model).SerializeToString(deterministic=True)


@pytest.mark.parametrize(("family", "config"), CASES, ids=str)
def test_the_bytes_of_a_model_in_memory(tiny_decoder, whole_models, family, config):
    folder = tiny_decoder(family, **config)
    exported = load_language_model(folder)
    cache, context = exported.settings.cache, exported.settings.context_length
    if exported.graph_source == "torch":
        whole = whole_models.traced_whole(folder, cache, context)
    else:
        whole = whole_models.built_whole(folder, cache)
    declare(whole, *specs_of(exported.settings))
    graph = exported.canonical.model
    assert bytes_of(graph) == bytes_of(whole)
    matrices = [value for value in graph.graph.initializers.values() if len(value.shape) == 2]
    # Rotary caches are computed, not read.
    held = [str(value.name) for value in matrices if streamed(value) is None]
    assert set(held) <= {"cos_cache", "sin_cache"} and len(matrices) > len(held)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_original_read_as_it_runs(tiny_decoder, whole_models, monkeypatch, family):
    folder = tiny_decoder(family)
    ids = np.random.default_rng(0).integers(0, 288, (2, 40))
    expected = whole_models.logits_of(whole_models.load_decoder(folder), ids)
    assert np.array_equal(load_original(folder)(ids), expected)
    monkeypatch.setattr(streamed_forward, "RESIDENT_BYTES", 0)
    monkeypatch.setattr(streamed_forward, "PIECE_ELEMENTS", 1000)
    # Products of some rows at a time may add in another order.
    assert np.abs(load_original(folder)(ids) - expected).max() <= 1e-5 * np.abs(expected).max()
    # The twin: a changed weight shows.
    other = tiny_decoder(family, rms_norm_eps=0.5) if family != "gpt2" else tiny_decoder("gpt2", n_head=2)
    assert np.abs(load_original(other)(ids) - expected).max() > 1e-3 * np.abs(expected).max()


def test_shards_and_half_precision(tiny_decoder, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_decoder("llama"), dtype=torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_decoder("llama") / name, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    exported = load_language_model(tmp_path)
    found = exported.canonical.model.graph.initializers["lm_head.MatMul.weight"].const_value
    assert np.array_equal(found.numpy(), model.lm_head.weight.detach().float().numpy().T)
    assert sum(file.path.endswith(".safetensors") for file in exported.source.files) > 2


def pickled(folder, tmp_path):
    import torch
    from safetensors.torch import load_file

    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    return tmp_path


def test_pickled_weights_are_copied_and_the_copy_goes(tiny_decoder, tmp_path, monkeypatch):
    folder = pickled(tiny_decoder("llama"), tmp_path / "model")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    exported = load_language_model(folder)
    assert bytes_of(exported.canonical.model) == bytes_of(
        load_language_model(tiny_decoder("llama")).canonical.model
    )
    assert list(scratch.iterdir())
    del exported
    gc.collect()
    assert not list(scratch.iterdir())


def test_a_pickle_that_is_none(tiny_decoder, tmp_path):
    folder = pickled(tiny_decoder("llama"), tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(b"no pickle")
    with pytest.raises(ModelError, match="cannot be loaded as plain weights"):
        load_language_model(folder)


def test_a_checkpoint_of_the_bare_model(tiny_decoder, tmp_path):
    from safetensors.numpy import load_file, save_file

    shutil.copytree(tiny_decoder("gpt2"), tmp_path, dirs_exist_ok=True)
    path = tmp_path / "model.safetensors"
    state = {name.removeprefix("transformer."): value for name, value in load_file(path).items()}
    save_file(state, path)
    ids = np.arange(20)[None]
    assert np.array_equal(load_original(tmp_path)(ids), load_original(tiny_decoder("gpt2"))(ids))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.pop("model.layers.1.mlp.up_proj.weight"),
            "no weights for 1 tensors, first model.l",
        ),
        (
            lambda state: state.update({"model.norm.weight": np.ones(3, np.float32)}),
            r"`model.norm.weight` of .* has shape \[3\], expected \[64\]",
        ),
        (
            lambda state: state["lm_head.weight"].__setitem__((5, 5), np.nan),
            "`lm_head.weight` of .* holds NaN",
        ),
    ],
    ids=("missing", "shape", "nan"),
)
def test_checkpoints_that_do_not_fit(tiny_decoder, tmp_path, change, message):
    from safetensors.numpy import load_file, save_file

    shutil.copytree(tiny_decoder("llama"), tmp_path, dirs_exist_ok=True)
    path = tmp_path / "model.safetensors"
    state = {name: value.copy() for name, value in load_file(path).items()}
    change(state)
    save_file(state, path)
    with pytest.raises(ModelError, match=message):
        load_language_model(tmp_path)
    with pytest.raises(ModelError, match=message):
        load_original(tmp_path)


def test_what_an_exporter_does_to_a_matrix_is_known_or_an_error(tiny_decoder, whole_models):
    import torch

    model, weights = decoder_without_matrices(tiny_decoder("llama"))
    recording = Recording(model, weights)
    layer = model.model.layers[0].self_attn
    with recording.stacking():
        stacked = torch.cat([layer.q_proj.weight, layer.k_proj.weight])
        scaled = layer.q_proj.weight * 2
        columns = layer.q_proj.weight[:, 3:9]
    whole = whole_models.load_decoder(tiny_decoder("llama")).model.layers[0].self_attn
    q, k = (part.weight.detach().numpy() for part in (whole.q_proj, whole.k_proj))
    assert np.array_equal(recording.rows_of(stacked).numpy(), np.concatenate([q, k]))
    assert np.array_equal(recording.rows_of(stacked.T).numpy(), np.concatenate([q, k]).T)
    assert np.array_equal(recording.rows_of(stacked[60:70]).numpy(), np.concatenate([q, k])[60:70])
    assert np.array_equal(recording.rows_of(stacked[60:70].T).numpy(), np.concatenate([q, k])[60:70].T)
    for unknown in (scaled, columns):
        with pytest.raises(ModelError, match="cannot be streamed"):
            recording.rows_of(unknown)


def test_nothing_is_read_for_the_structure(tiny_decoder, monkeypatch):
    """Matrices are first read when somebody asks for their values."""
    asked = []
    monkeypatch.setattr(StreamedTensor, "numpy", lambda self: asked.append(self.name))
    model, weights = decoder_without_matrices(tiny_decoder("llama"))
    from edgeq.exporters.causal_lm.builder import build_decoder
    from edgeq.exporters.causal_lm.normalize import normalize_built

    graph, _ = build_decoder(Path(weights.folder), model, weights)
    normalize_built(graph, [None, None])
    assert asked == []
