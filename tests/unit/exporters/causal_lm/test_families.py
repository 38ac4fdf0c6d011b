"""Every family: structure, cache, and the same predictions as transformers in one go and in pieces."""

import json
from dataclasses import replace
from functools import cache
from itertools import islice

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.errors import ConfigError, ModelError
from edgeq.exporters.causal_lm import load_language_model
from edgeq.exporters.causal_lm.equivalence import TOLERANCE, check_decoder
from edgeq.exporters.causal_lm.positions import layer_windows
from edgeq.families import FAMILIES
from edgeq.quantize.layers import find_layers
from edgeq.runtime.generation.genai import GenaiTokens
from edgeq.runtime.generation.generator import OnnxTokens
from edgeq.runtime.generation.sampling import Sampling
from edgeq.runtime.generation.session import DecoderSession
from edgeq.runtime.perplexity import greedy
from edgeq.types import Task

pytest.importorskip("onnxruntime_genai")

BUILT = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "phi3")
TRACED = ("gemma3_text", "gpt2")
HEAD_SIZES = {"qwen3": 32}


@pytest.fixture(scope="module")
def decoder(tiny_decoder):
    return cache(lambda family: load_language_model(tiny_decoder(family)))


@pytest.fixture
def session(decoder, tmp_path):
    def open_(family):
        exported = decoder(family)
        ir.save(exported.canonical.model, tmp_path / "model.onnx")
        settings = exported.settings
        return DecoderSession(tmp_path / "model.onnx", settings.cache, settings.context_length, threads=1)

    return open_


def test_every_family_is_tested(tiny_decoders):
    assert {*BUILT, *TRACED} == set(FAMILIES) == set(tiny_decoders.FAMILIES)


@pytest.mark.parametrize("family", BUILT + TRACED)
def test_structure(decoder, family):
    exported = decoder(family)
    settings = exported.settings
    assert exported.graph_source == ("torch" if family in TRACED else "genai-builder")
    assert exported.source.task is Task.TEXT_GENERATION
    assert (settings.context_length, settings.vocabulary, settings.stop_ids) == (128, 288, (257,))
    shape = settings.cache
    assert (shape.layers, shape.heads, shape.size) == (
        2,
        4 if family == "gpt2" else 2,
        HEAD_SIZES.get(family, 16),
    )
    inputs = [value.name for value in exported.canonical.model.graph.inputs]
    assert inputs[:3] == ["input_ids", "attention_mask", "past_key_values.0.key"]
    assert [spec.name for spec in exported.canonical.inputs] == inputs
    assert bool(exported.genai_config) == (FAMILIES[family].genai_type is not None)


@pytest.mark.parametrize("family", BUILT + TRACED)
def test_recipes_find_every_layer(decoder, family):
    layers = find_layers(decoder(family).canonical.model)
    roles = [ref.role for ref in layers.refs]
    assert "other" not in roles
    tied = family in ("gemma2", "gemma3_text", "gpt2")
    assert bool(layers.tied) == tied
    assert roles.count("head") == (0 if tied else 1)
    assert {ref.layer_index for ref in layers.refs if ref.role.startswith(("attention", "ffn"))} == {0, 1}


@pytest.mark.parametrize("family", BUILT + TRACED)
def test_predictions_in_one_go_in_chunks_and_token_by_token(decoder, session, family):
    exported, decoding = decoder(family), session(family)
    ids = np.random.default_rng(1).integers(0, 288, 50)
    expected = exported.reference(ids[None])[0]
    bound = TOLERANCE * np.abs(expected).max()
    for sizes in ([50], [20, 17, 13], [1] * 50):
        state, parts, at = decoding.start(50), [], 0
        for size in sizes:
            parts.append(decoding.feed(state, ids[at : at + size]))
            at += size
        assert np.abs(np.concatenate(parts) - expected).max() <= bound
    # The twin: a prediction that ignores the past is far outside of the bound.
    alone = decoding.logits(ids[25:])
    assert np.abs(alone[-1] - expected[-1]).max() > 10 * bound


@pytest.mark.parametrize("family", BUILT + TRACED)
def test_greedy_tokens_are_those_of_transformers(decoder, session, family):
    exported, decoding = decoder(family), session(family)
    prompt = list(range(10, 22))
    wanted = greedy(lambda ids: exported.reference(ids[None])[0], prompt, 12)
    assert greedy(decoding.logits, prompt, 12) == wanted


def test_a_lost_window_is_noticed(decoder):
    exported = decoder("mistral")
    graph = exported.canonical.model.clone()
    for node in graph.graph:
        if node.op_type == "GroupQueryAttention":
            assert node.attributes["local_window_size"].as_int() == 16
            node.attributes["local_window_size"] = ir.AttrInt64("local_window_size", -1)
    broken = replace(exported.canonical, model=graph)
    with pytest.raises(ModelError, match=r"does not compute what the original does: run in one go"):
        check_decoder(broken, exported.settings, exported.reference, exported.source.architecture)


def test_a_wrong_cache_is_noticed(decoder):
    """Whole prompts are right and steps are not: only the run in pieces can tell."""
    exported = decoder("gpt2")
    graph = exported.canonical.model.clone()
    keys = [value for value in graph.graph.outputs if str(value.name).endswith(".key")]
    for value in keys:
        node = ir.node("Neg", [value], name=f"{value.name}/negated")
        output = node.outputs[0]
        output.type, output.shape = value.type, value.shape
        output.name, value.name = value.name, f"{value.name}/before"
        graph.graph.append(node)
        graph.graph.outputs[graph.graph.outputs.index(value)] = output
    with pytest.raises(ModelError, match="in pieces over the KV cache"):
        check_decoder(
            replace(exported.canonical, model=graph),
            exported.settings,
            exported.reference,
            exported.source.architecture,
        )


@pytest.mark.parametrize("family", (*BUILT, "gemma3_text"))
def test_genai_writes_the_same_tokens(decoder, session, family, tmp_path):
    exported, own = decoder(family), OnnxTokens(session(family))
    (tmp_path / "genai_config.json").write_text(json.dumps(exported.genai_config))
    prompt = list(range(10, 34))
    engines = (own, GenaiTokens(tmp_path))
    found = [list(islice(engine(prompt, Sampling(), 56), 30)) for engine in engines]
    stop = next(
        (index + 1 for index, token in enumerate(found[0]) if token in exported.settings.stop_ids), 30
    )
    assert found[0][:stop] == found[1][:stop]


def test_head_size_8_takes_the_other_road(tiny_decoder):
    exported = load_language_model(
        tiny_decoder("llama", head_dim=8, num_hidden_layers=1, tie_word_embeddings=True)
    )
    assert exported.graph_source == "torch"
    assert not exported.settings.cache.shares_buffer
    assert exported.genai_config["search"]["past_present_share_buffer"] is False
    assert find_layers(exported.canonical.model).tied == {"embed_tokens"}


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"rope_parameters": LLAMA3}),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}),
        ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}),
        ("phi3", {"sliding_window": 16}),
    ],
    ids=("llama3-positions", "theta", "biases", "window-of-some-layers", "window"),
)
def test_what_configs_of_a_family_may_change(tiny_decoders, tmp_path, family, changes):
    """Exporting compares with the original; a difference is an error."""
    folder = tiny_decoders.build_tiny_decoder(tmp_path, family, **changes)
    assert load_language_model(folder).graph_source == "genai-builder"


def test_linear_positions_take_the_other_road(tiny_decoders, tmp_path):
    positions = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
    folder = tiny_decoders.build_tiny_decoder(tmp_path, num_hidden_layers=1, rope_parameters=positions)
    assert load_language_model(folder).graph_source == "torch"


def test_a_shorter_context(tiny_decoder):
    exported = load_language_model(tiny_decoder("llama"), context=32)
    assert exported.settings.context_length == exported.genai_config["model"]["context_length"] == 32
    with pytest.raises(ConfigError, match="--seq-len 999"):
        load_language_model(tiny_decoder("llama"), context=999)


def test_windows_of_layers():
    class Config:
        sliding_window = 8
        layer_types = ("sliding_attention", "full_attention")

    assert layer_windows(Config, 2) == [8, None]
    Config.layer_types = None
    assert layer_windows(Config, 2) == [8, 8]
    Config.sliding_window = None
    assert layer_windows(Config, 2) == [None, None]
