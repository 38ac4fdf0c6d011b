import json
from types import SimpleNamespace

import pytest

from edgeq.errors import DataError, IntegrityError, UsageError
from edgeq.processors.prompts import PromptTokenizer
from edgeq.runtime.generation import genai
from edgeq.runtime.generation.answer import StopReason
from edgeq.runtime.generation.generator import OnnxTokens, TextGenerator, open_tokens
from edgeq.runtime.generation.sampling import Sampling
from edgeq.runtime.generation.session import DecoderSession
from edgeq.runtime.generation.settings import CacheShape, GenerationSettings, SamplingDefaults

SHAPE = CacheShape(2, 1, 1)


def expected_answer(prompt, count):
    """By the rule of the counting decoder: twice the token, plus the tokens before it, modulo 12."""
    ids = list(prompt)
    for _ in range(count):
        ids.append((2 * ids[-1] + len(ids) - 1) % 12)
    return ids[len(prompt) :]


@pytest.fixture
def generator(counting_model, tokenizer_json):
    def make(context=40, stop=()):
        session = DecoderSession(counting_model, SHAPE, context, threads=1)
        settings = GenerationSettings(context, 12, stop, SHAPE)
        return TextGenerator(OnnxTokens(session), PromptTokenizer(tokenizer_json), settings)

    return make


def test_greedy_generation(generator):
    found = generator().generate("t3 t4", max_tokens=6)
    assert found.token_ids == tuple(expected_answer([3, 4], 6))
    assert (found.prompt_tokens, found.stop_reason) == (2, StopReason.MAX_TOKENS)
    assert found.text.split() == [f"t{token}" for token in found.token_ids]
    assert found.prompt_tokens_per_second > 0 and found.tokens_per_second > 0


@pytest.mark.parametrize("threads", [None, 2])
def test_threads_and_level_reach_genai(threads, monkeypatch, tmp_path):
    monkeypatch.setattr(
        "edgeq.runtime.generation.generator.GenaiTokens",
        lambda folder, *, threads, level: (folder, threads, level),
    )
    settings = GenerationSettings(40, 12, (), SHAPE)
    model = tmp_path / "model.onnx"
    found = open_tokens(
        model, "onnxruntime", settings, engine="genai", threads=threads, level="ORT_ENABLE_BASIC"
    )
    assert found == (tmp_path, threads, "ORT_ENABLE_BASIC")


@pytest.mark.parametrize(
    ("threads", "level", "ordered"),
    [
        (None, "ORT_ENABLE_ALL", {}),
        (2, "ORT_ENABLE_ALL", {"intra_op_num_threads": 2}),
        (None, "ORT_ENABLE_BASIC", {"graph_optimization_level": "ORT_ENABLE_BASIC"}),
    ],
)
def test_genai_is_told_what_differs_from_its_folder(threads, level, ordered, monkeypatch, tmp_path):
    said = []
    config = SimpleNamespace(overlay=said.append)
    monkeypatch.setattr(genai, "_import_genai", lambda: SimpleNamespace(Config=lambda _: config, Model=str))
    (tmp_path / "genai_config.json").write_text("{}")
    genai.GenaiTokens(tmp_path, threads=threads, level=level)
    assert json.loads(said[0]) == {"model": {"decoder": {"session_options": ordered}}}


def test_a_level_reaches_the_session(counting_model):
    settings = GenerationSettings(40, 12, (), SHAPE)
    tokens = open_tokens(counting_model, "onnxruntime", settings, level="ORT_ENABLE_BASIC")
    options = tokens.session._session.get_session_options()
    assert options.graph_optimization_level.name == "ORT_ENABLE_BASIC"


def test_pieces_are_the_text(generator):
    pieces = []
    found = generator().generate("t3", max_tokens=5, on_text=pieces.append)
    assert "".join(pieces) == found.text
    assert len(pieces) == 5


def test_it_ends_at_a_stop_token_and_leaves_it_out(generator):
    answer = expected_answer([3, 4], 6)
    found = generator(stop=(answer[2],)).generate("t3 t4", max_tokens=6)
    assert found.token_ids == tuple(answer[:2])
    assert found.stop_reason is StopReason.STOP_TOKEN


def test_it_ends_where_the_context_is_full(generator):
    found = generator(context=5).generate("t3 t4", max_tokens=6)
    assert found.token_ids == tuple(expected_answer([3, 4], 3))
    assert found.stop_reason is StopReason.CONTEXT
    exactly = generator(context=5).generate("t3 t4", max_tokens=3)
    assert exactly.stop_reason is StopReason.MAX_TOKENS


def test_sampling_is_seeded(generator):
    hot = Sampling(temperature=50.0, seed=1)
    first, second = (generator().generate("t3", max_tokens=12, sampling=hot) for _ in range(2))
    other = generator().generate("t3", max_tokens=12, sampling=Sampling(temperature=50.0, seed=2))
    assert first.token_ids == second.token_ids
    assert first.token_ids != other.token_ids


@pytest.mark.parametrize("prompt", ["", "   "])
def test_an_empty_prompt(generator, prompt):
    with pytest.raises(DataError, match="the prompt is empty"):
        generator().generate(prompt)


def test_a_prompt_beyond_the_context(generator):
    with pytest.raises(DataError, match="the prompt has 5 tokens; the model's context is 5"):
        generator(context=5).generate("t1 t2 t3 t4 t5")


def test_a_prompt_that_is_not_unicode(generator):
    with pytest.raises(DataError, match="not valid Unicode"):
        generator().generate("t1 \udcff")


@pytest.mark.parametrize("count", [0, -3])
def test_no_tokens_asked_for(generator, count):
    with pytest.raises(UsageError, match="expected at least 1"):
        generator().generate("t1", max_tokens=count)


def test_settings_survive_the_file(tmp_path):
    settings = GenerationSettings(
        64,
        12,
        (1, 5),
        CacheShape(2, 3, 4, True),
        "<s>",
        None,
        "{{ x }}",
        SamplingDefaults(True, 0.7, 0.9, 20, 1.1),
    )
    settings.save(tmp_path)
    assert GenerationSettings.load(tmp_path / "generation.json") == settings
    (tmp_path / "generation.json").write_text('{"vocabulary": 3}')
    with pytest.raises(IntegrityError, match="it has no `context_length`"):
        GenerationSettings.load(tmp_path / "generation.json")


def test_a_broken_tokenizer():
    with pytest.raises(IntegrityError, match=r"tokenizer\.json"):
        PromptTokenizer("{}")


def test_tokens_without_an_embedding_are_refused_by_name(tokenizer_json, counting_model):
    session = DecoderSession(counting_model, SHAPE, 40, threads=1)
    small = TextGenerator(
        OnnxTokens(session), PromptTokenizer(tokenizer_json), GenerationSettings(40, 9, (), SHAPE)
    )
    assert small.encode("t3 t8") == [3, 8]
    with pytest.raises(DataError, match=r"the prompt holds the token 't9' \(9\).* its table has 9 rows"):
        small.generate("t3 t9")
