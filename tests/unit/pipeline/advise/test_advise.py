"""Advice from configs: what fits, what is recommended, and the numbers behind it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from edgeq.errors import ConfigError, ModelError, UsageError
from edgeq.pipeline.advise import Quality, Request, Tolerance, advise, parse_tolerance
from edgeq.pipeline.advise.memory import kv_cache_bytes
from edgeq.quantize.recipes import BUILT_IN

MINILM = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "vocab_size": 30522,
}
LLAMA_8B = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
QWEN3_600M = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
}


@pytest.fixture
def ask(tmp_path):
    def answer(config, gigabytes, tolerance="medium", **options):
        (tmp_path / "config.json").write_text(json.dumps(config))
        return advise(Request(str(tmp_path), int(gigabytes * 1e9), tolerance=Tolerance(tolerance), **options))

    return answer


def option(advice, recipe):
    return next(one for one in advice.options if one.recipe == recipe)


def test_parameters_are_the_published_ones(ask):
    # all-MiniLM-L6-v2 has 22.7 M with its pooler of 147,840, Llama-3.1-8B 8.03 B.
    assert ask(MINILM, 4).shape.parameters == 22_713_216 - 147_840
    assert ask(LLAMA_8B, 4).shape.parameters == 8_030_261_248


def test_roles_add_up(ask):
    advice = ask(LLAMA_8B, 4)
    assert sum(advice.roles.values()) == advice.shape.parameters
    assert advice.roles["attention.k"] == 32 * 4096 * 1024


@pytest.mark.parametrize(("recipe", "bits"), [("q8", 8.5), ("int4", 4.5), ("fp16", 16.0)])
def test_downloads_follow_the_recipes_bits(ask, recipe, bits):
    found = option(ask(LLAMA_8B, 4), recipe)
    # Norms stay in float32, and there is a graph: 0.1 % of 8 B parameters.
    assert found.download_bytes == pytest.approx(8_030_261_248 * bits / 8, rel=0.002)


def test_the_tokenizer_is_part_of_the_download(ask, tmp_path):
    before = option(ask(MINILM, 4), "int8").download_bytes
    (tmp_path / "tokenizer.json").write_text("x" * 1000)
    assert option(ask(MINILM, 4), "int8").download_bytes == before + 1000


def test_tied_tables_are_counted_once(ask):
    tied = ask(QWEN3_600M, 4)
    untied = ask({**QWEN3_600M, "tie_word_embeddings": False}, 4)
    assert untied.shape.parameters - tied.shape.parameters == 1024 * 151936


def test_the_cache_grows_with_context_and_shrinks_with_shared_heads(ask):
    shape = ask(LLAMA_8B, 4).shape
    # 2 (keys, values) x 32 layers x 8 heads x 128 x 4 bytes per token.
    assert kv_cache_bytes(shape, 1000) == 262_144 * 1000
    assert kv_cache_bytes(replace(shape, kv_heads=32), 1000) == 4 * 262_144 * 1000
    short, long = (option(ask(LLAMA_8B, 4, context=c), "q4_k_m").footprint.ram for c in (4096, 8192))
    assert long - short == 262_144 * 4096
    assert kv_cache_bytes(ask(MINILM, 4).shape, 512) == 0


@pytest.mark.parametrize(
    ("config", "gigabytes", "tolerance", "recipe"),
    [
        (MINILM, 4, "low", "int8"),
        (MINILM, 4, "high", "int8"),
        (LLAMA_8B, 64, "low", "q8"),
        (LLAMA_8B, 64, "medium", "q4_k_m"),
        (LLAMA_8B, 64, "high", "int4"),
        # A small model loses a class: 4 bits are fair at best.
        (QWEN3_600M, 16, "medium", "q8"),
        (QWEN3_600M, 16, "high", "q4_k_m"),
    ],
)
def test_recommendations(ask, config, gigabytes, tolerance, recipe):
    advice = ask(config, gigabytes, tolerance)
    assert advice.recommended == recipe
    assert option(advice, recipe).fits and option(advice, recipe).tolerated


def test_the_best_that_fits_where_the_tolerance_cannot_be_met(ask):
    wanted = option(ask(QWEN3_600M, 16, "low"), "q8").footprint.ram
    advice = ask(QWEN3_600M, 2 * (wanted - 1e6) / 1e9, "low")
    assert not option(advice, "q8").fits
    assert advice.recommended == "q6" and "nothing within tolerance low fits" in advice.why


def test_nothing_fits(ask):
    advice = ask(LLAMA_8B, 1)
    assert advice.recommended is None and "nothing fits 500 MB: w4a8 needs least" in advice.why
    assert not any(found.fits for found in advice.options)


def test_every_recipe_is_weighed_and_ordered_by_quality(ask):
    found = ask(LLAMA_8B, 64).options
    assert [one.recipe for one in found] == [
        name for name in BUILT_IN if not name.startswith(("palette", "stored"))
    ]
    classes = {one.recipe: one.quality for one in found}
    assert classes["fp32"] is Quality.ORIGINAL and classes["q8"] is Quality.NEAR_LOSSLESS
    assert classes["q4_k_m"] is Quality.GOOD and classes["q4_k_s"] is Quality.FAIR
    assert classes["w4a8"] is Quality.COARSE


def test_int8_of_a_language_model_is_what_the_export_makes(ask):
    found = ask(LLAMA_8B, 64)
    # 8 bits and a float16 scale for each block of 16: as the export says it.
    assert option(found, "int8").bits == 9.0 and option(found, "int8").refusal is None
    assert option(ask(MINILM, 64), "int8").bits < 8.2
    assert "static int8 activations" in option(found, "q8-static").refusal


def test_gguf_files_are_weighed_by_their_own_types(ask):
    found = ask(LLAMA_8B, 64, target="gguf")
    # The published Q4_K_M of Llama 3.1 8B has 4.92 GB, its Q8_0 8.54 GB.
    assert option(found, "q4_k_m").download_bytes == pytest.approx(4.92e9, rel=0.01)
    assert option(found, "q8").download_bytes == pytest.approx(8.54e9, rel=0.01)
    assert found.is_computed and not ask(LLAMA_8B, 64).is_computed
    # The cache is float16 there.
    assert option(found, "q8").footprint.kv_cache * 2 == option(ask(LLAMA_8B, 64), "q8").footprint.kv_cache
    assert "language models alone" in ask(MINILM, 64, target="gguf").why


@pytest.mark.parametrize(
    ("config", "target", "why"),
    [
        ({"rope_scaling": {"rope_type": "proportional"}}, "cpu", "type `proportional`"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "gguf", "not written to GGUF"),
        ({"num_attention_heads": 31}, "cpu", "cannot be divided among 31"),
        ({}, "coreml", "does not take language models"),
    ],
)
def test_what_export_refuses_is_not_recommended(ask, config, target, why):
    found = ask(LLAMA_8B | config, 64, target=target)
    assert found.recommended is None and found.is_refused and why in found.why
    assert all(not one.is_possible for one in found.options)


@pytest.mark.parametrize("target", ["cpu", "gguf"])
def test_the_language_model_of_a_checkpoint_of_images_and_text(ask, target):
    inner = LLAMA_8B | {"model_type": "gemma3_text", "head_dim": 128, "query_pre_attn_scalar": 128}
    whole = {
        "model_type": "gemma3",
        "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": inner,
    }
    head = {"architectures": ["Gemma3ForCausalLM"]}
    found, alone = ask(whole, 64, target=target), ask(inner | head, 64, target=target)
    assert found.recommended is not None and not found.is_refused
    assert found.options == alone.options


def test_positions_that_change_with_the_text_bound_the_context(ask):
    rope = {"rope_type": "longrope", "original_max_position_embeddings": 2048}
    found = ask(LLAMA_8B | {"rope_scaling": rope}, 64)
    assert (found.tokens, found.seq_len) == (2048, 2048) and found.recommended is not None
    assert ask(LLAMA_8B, 64).seq_len is None
    with pytest.raises(ConfigError, match="--context 4096 does not fit"):
        ask(LLAMA_8B | {"rope_scaling": rope}, 64, context=4096)


def test_the_share_is_the_users(ask):
    assert ask(MINILM, 4, share=0.25).request.budget_bytes == 1_000_000_000
    for share in (0, -1, 1.5, float("nan")):
        with pytest.raises(UsageError, match="--share got"):
            ask(MINILM, 4, share=share)


def test_contexts(ask):
    assert ask(MINILM, 4).tokens == 512 and ask(LLAMA_8B, 4).tokens == 4096
    assert ask({**LLAMA_8B, "max_position_embeddings": 2048}, 4).tokens == 2048
    with pytest.raises(ConfigError, match="positions for 1 to 512 tokens") as caught:
        ask(MINILM, 4, context=513)
    assert caught.value.hint == "--context 512"


def test_unknown_targets_and_tolerances(ask):
    with pytest.raises(UsageError, match="unknown target `toaster`"):
        ask(MINILM, 4, target="toaster")
    with pytest.raises(UsageError, match="--tolerance got `some`, expected low, medium, high"):
        parse_tolerance("some")


def test_models_without_a_known_size(ask):
    with pytest.raises(ModelError, match="architecture `mixtral`"):
        ask({"model_type": "mixtral"}, 4)


def test_large_weights_lie_beside_the_graph_as_the_writer_puts_them():
    from edgeq.pipeline.advise import memory
    from edgeq.targets import onnx_file

    assert memory.EXTERNAL_BYTES == onnx_file.EXTERNAL_DATA_BYTES
    assert memory.STREAMED_BYTES == onnx_file.STREAMED_BYTES


def test_mapped_weights_need_less_memory(ask):
    from edgeq.pipeline.advise.memory import estimate
    from edgeq.quantize.recipes import layer_refs, load_recipe

    shape = ask(MINILM, 4).shape
    layers = layer_refs(shape.matrices)
    for recipe in ("fp32", "fp16", "q8", "int4"):
        specs = load_recipe(recipe).resolve(layers)
        inside, beside = (estimate(shape, layers, specs, 128, external=e).ram for e in (False, True))
        assert beside < inside, recipe


def test_json_holds_the_parts(ask):
    document = json.loads(json.dumps(ask(MINILM, 4).to_json(), allow_nan=False))
    assert document["recommendation"]["recipe"] == "int8" and document["budget_bytes"] == 2_000_000_000
    for found in document["recipes"]:
        parts = found["parts"]
        run = parts["weights"] + parts["kv_cache"] + parts["activations"]
        assert found["ram_bytes"] == parts["runtime"] + max(parts["loading"], run)
