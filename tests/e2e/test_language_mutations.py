"""Bundles of language models with one thing damaged and the hashes rewritten: validation has to name it."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import edgeq
from edgeq import onnx_runtime
from edgeq.bundle.reader import open_bundle
from edgeq.cli import run_command_line
from edgeq.onnx_runtime import Arithmetic
from edgeq.runtime import executors
from edgeq.runtime.generation.language_model import LanguageModel


def _support() -> ModuleType:
    """tests/support/mutate_bundle.py, when tests are collected: what is parametrized is made of it."""
    path = Path(__file__).parents[1] / "support" / "mutate_bundle.py"
    spec = importlib.util.spec_from_file_location("edgeq_tests_mutate_bundle", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mutate = _support()
HEAD, ROPE = 16, 8
DIVIDES = "{{ 1 / 0 }}"
NO_SYSTEM = "{% for m in messages if m.role != 'system' %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


@pytest.fixture(scope="module")
def model(tiny_decoders: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Biases, tied tables, a chat template."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    return Path(
        tiny_decoders.build_tiny_decoder(
            folder, "qwen2", chat_template=tiny_decoders.CHAT_TEMPLATE, tie_word_embeddings=True
        )
    )


@pytest.fixture(scope="module")
def graph_bundle(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For ONNX Runtime."""
    return edgeq.export(model, precision="int4", output=tmp_path_factory.mktemp("out") / "int4").path


@pytest.fixture(scope="module")
def file_model(model: Path, tiny_decoders: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a tokenizer that llama.cpp takes."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    shutil.copytree(model, folder)
    tiny_decoders.write_bpe_tokenizer(folder, tiny_decoders.CHAT_TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def file_bundle(file_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For llama.cpp."""
    pytest.importorskip("gguf")
    folder = tmp_path_factory.mktemp("out") / "q8"
    return edgeq.export(file_model, target="gguf", precision="q8", output=folder).path


def verdict(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = run_command_line(["validate", *(str(argument) for argument in arguments), "--quiet"])
    return code, capsys.readouterr().err


# -- what is beside the model --


def shifted(document: Any) -> None:
    vocabulary = document["model"]["vocab"]
    plain = [token for token, number in sorted(vocabulary.items(), key=lambda item: item[1]) if number < 256]
    vocabulary.update({token: (index + 1) % len(plain) for index, token in enumerate(plain)})


def swapped(document: Any) -> None:
    vocabulary = document["model"]["vocab"]
    vocabulary["Q"], vocabulary["q"] = vocabulary["q"], vocabulary["Q"]


def cut(document: Any) -> None:
    vocabulary = document["model"]["vocab"]
    del vocabulary[next(token for token, number in vocabulary.items() if number == 255)]


def without_start(document: Any) -> None:
    document["post_processor"] = None


def without_special(document: Any) -> None:
    document["added_tokens"] = [item for item in document["added_tokens"] if item["content"] != "<|im_end|>"]


def set_to(*path: str, value: Any) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        assert document[path[-1]] != value
        document[path[-1]] = value

    return change


TOKENIZER = "**/tokenizer.json"
GENERATION = "generation.json"
BESIDE = {
    "shifted vocabulary": (TOKENIZER, shifted, "token ids of 'The quick brown fox"),
    "two tokens swapped": (TOKENIZER, swapped, "token"),
    "cut vocabulary": (TOKENIZER, cut, "the vocabulary has 2"),
    "no start token": (TOKENIZER, without_start, "token ids of"),
    "a special token lost": (TOKENIZER, without_special, "token ids of '</s>word"),
    "decoder lost": (TOKENIZER, set_to("decoder", value=None), "text of the token ids of"),
    "wrong stop ids": (GENERATION, set_to("stop_ids", value=[3]), "stop_ids of `generation.json` is [3]"),
    "no stop ids": (GENERATION, set_to("stop_ids", value=[]), "stop_ids of `generation.json` is []"),
    "stop id outside": (GENERATION, set_to("stop_ids", value=[999]), "stop id 999 is none of the 288"),
    "context of 8": (
        GENERATION,
        set_to("context_length", value=8),
        "context_length is 8 in generation.json, 128",
    ),
    "larger context": (GENERATION, set_to("context_length", value=4096), "context_length is 4096"),
    "another start token": (GENERATION, set_to("bos_token", value="</s>"), "bos_token of `generation.json`"),
    "hot sampling": (GENERATION, set_to("sampling", "temperature", value=2.0), "sampling.temperature"),
    "cache of another size": (GENERATION, set_to("cache", "size", value=8), "cache.size"),
    "vocabulary of another size": (
        GENERATION,
        set_to("vocabulary", value=270),
        "vocabulary of `generation.json`",
    ),
    "template that divides by zero": (
        GENERATION,
        set_to("chat_template", value=DIVIDES),
        "chat `user only`: the chat template fails: ZeroDivisionError",
    ),
    "template that drops the system role": (
        GENERATION,
        set_to("chat_template", value=NO_SYSTEM),
        "chat `system and user`: the template writes another text",
    ),
    "no template": (
        GENERATION,
        set_to("chat_template", value=None),
        "there is no chat template, recorded one",
    ),
}


OF_FILES = ("shifted vocabulary", "no start token", "wrong stop ids", "context of 8", "no template")
"""What is judged without the model is judged by the same code for either runtime: of the slower one, one of a kind."""


@pytest.mark.parametrize(
    ("kind", "name"),
    [*(("graph_bundle", name) for name in BESIDE), *(("file_bundle", name) for name in OF_FILES)],
)
def test_damage_beside_the_model_is_named(
    name: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pattern, change, words = BESIDE[name]
    source = request.getfixturevalue(kind)
    folder = mutate.damaged(source, tmp_path / "b", mutate.change_json(pattern, change))
    code, message = verdict(capsys, folder)
    assert code == 3 and words in message, message


GENAI = {
    "stop ids of GenAI": (
        "genai_config.json",
        set_to("model", "eos_token_id", value=7),
        "model.eos_token_id",
    ),
    "context of GenAI": (
        "genai_config.json",
        set_to("model", "context_length", value=8),
        "model.context_length",
    ),
    "template of GenAI": (
        "tokenizer_config.json",
        set_to("chat_template", value=DIVIDES),
        "chat_template of",
    ),
}


@pytest.mark.parametrize("name", GENAI)
def test_damage_of_another_engine_s_settings_is_named(
    name: str, graph_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, change, words = GENAI[name]
    folder = mutate.damaged(graph_bundle, tmp_path / "b", mutate.change_json(f"model/*/{file}", change))
    code, message = verdict(capsys, folder)
    assert code == 3 and words in message and file in message


@pytest.mark.parametrize("key", ["tokenizer.ggml.eos_token_id", "qwen2.context_length"])
def test_damage_of_a_gguf_file_s_metadata_is_named(
    key: str, file_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = mutate.damaged(file_bundle, tmp_path / "b", mutate.change_gguf_number(key, 8))
    code, message = verdict(capsys, folder)
    assert code == 3 and f"{key} of" in message


# -- golden cases --

IDS, MASK, KEY = "inputs/input_ids", "inputs/attention_mask", "inputs/past_key_values.0.key"
CHANGES: dict[str, tuple[Callable[[dict[str, np.ndarray]], object], str]] = {
    "no ids": (lambda a: a.pop(IDS), "it has no `input_ids`"),
    "an id outside": (lambda a: a.update({IDS: a[IDS] * 0 + 288}), "the token 288, expected 0 to 287"),
    "an id below 0": (lambda a: a.update({IDS: -1 - a[IDS] * 0}), "the token -1, expected 0 to 287"),
    "ids of 32 bits": (lambda a: a.update({IDS: a[IDS].astype(np.int32)}), "`input_ids` is int32"),
    "ids in floats": (lambda a: a.update({IDS: a[IDS].astype(float)}), "`input_ids` is float64"),
    "empty ids": (lambda a: a.update({IDS: a[IDS][:, :0]}), "it has no tokens"),
    "an unknown input": (lambda a: a.update({"inputs/x": a[IDS]}), "it has `x`, which the variant does not"),
}
IN_ROWS = {"two sequences": (lambda a: a.update({IDS: a[IDS].repeat(2, axis=0)}), "2 rows, expected one")}
OF_CACHES: dict[str, tuple[Callable[[dict[str, np.ndarray]], object], str]] = {
    "no mask": (lambda a: a.pop(MASK), "it has no `attention_mask`"),
    "a shorter mask": (lambda a: a.update({MASK: a[MASK][:, 1:]}), "expected 24 of the past and 1 new"),
    "a longer mask": (lambda a: a.update({MASK: a[MASK].repeat(2, axis=1)}), "covers 50 tokens"),
    "a mask of zeros": (lambda a: a.update({MASK: a[MASK] * 0}), "`attention_mask` is not 1 at every token"),
    "no cache": (lambda a: a.pop(KEY), "it has no `past_key_values.0.key`"),
    "caches of two lengths": (lambda a: a.update({KEY: a[KEY][:, :, 1:]}), "another input 23"),
    "a cache of more heads": (
        lambda a: a.update({KEY: a[KEY].repeat(2, axis=1)}),
        "[1, 4, 24, 16], expected",
    ),
}


def of_cases(
    kind: str, case: str, changes: dict[str, tuple[Callable[[dict[str, np.ndarray]], object], str]]
) -> list[Any]:
    return [pytest.param(kind, case, *change, id=f"{case}, {name}") for name, change in changes.items()]


@pytest.mark.parametrize(
    ("kind", "case", "change", "words"),
    [
        *of_cases("graph_bundle", "prefill-00", CHANGES),
        *of_cases("graph_bundle", "decode-00", CHANGES | OF_CACHES),
        *of_cases("file_bundle", "prefill-00", CHANGES | IN_ROWS),
    ],
)
def test_a_golden_case_that_is_no_step_of_a_decoder_is_refused(
    kind: str,
    case: str,
    change: Callable[[dict[str, np.ndarray]], object],
    words: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By name, before any runtime sees it: llama.cpp need not be here for that."""
    edit = mutate.change_npz(f"golden/{case}.npz", change)
    folder = mutate.damaged(request.getfixturevalue(kind), tmp_path / "b", edit)
    code, message = verdict(capsys, folder)
    assert code == 4 and f"`{case}`" in message, message
    assert words in " ".join(message.split())


def test_a_golden_case_beyond_the_context_is_refused(
    graph_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def shorten(document: Any) -> None:
        document["variants"][0]["requirements"]["context_length"] = 24

    folder = mutate.damaged(graph_bundle, tmp_path / "b", mutate.change_json("edgeq.json", shorten))
    code, message = verdict(capsys, folder)
    assert code == 4 and "`decode-00`" in message and "the context is 24" in " ".join(message.split())


# -- the model --


def scaled(factor: float) -> Callable[[np.ndarray], None]:
    def change(array: np.ndarray) -> None:
        array *= np.asarray(factor, array.dtype)

    return change


def heads_swapped(array: np.ndarray) -> None:
    array[: 2 * HEAD] = np.concatenate([array[HEAD : 2 * HEAD], array[:HEAD]])


def rope_base(wave: Callable[[np.ndarray], np.ndarray], base: float) -> Callable[[np.ndarray], None]:
    def change(array: np.ndarray) -> None:
        frequencies = base ** (-np.arange(ROPE) / ROPE)
        found = wave(np.outer(np.arange(len(array)), frequencies)).astype(array.dtype)
        assert not np.allclose(found, array)
        array[:] = found

    return change


def nan_from(row: int) -> Callable[[np.ndarray], None]:
    def change(array: np.ndarray) -> None:
        array[row:] = np.nan

    return change


def zeroed(array: np.ndarray) -> None:
    assert array.any()
    array[:] = 0


MODEL = {
    "scale of a layer x1.5": mutate.change_weight("layers.0.attn.qkv_proj_scales", scaled(1.5)),
    "scale of a layer x1.1": mutate.change_weight("layers.1.mlp.down_proj.MatMul.weight_scales", scaled(1.1)),
    "heads swapped": mutate.all_of(
        *(
            mutate.change_weight(f"layers.1.attn.qkv_proj{part}", heads_swapped)
            for part in ("_q", "_scales", ".bias")
        )
    ),
    "RoPE base doubled": mutate.all_of(
        mutate.change_weight("cos_cache", rope_base(np.cos, 20000.0)),
        mutate.change_weight("sin_cache", rope_base(np.sin, 20000.0)),
    ),
    "epsilon of the last norm": mutate.change_attribute("SkipSimplifiedLayerNormalization", "epsilon", 0.05),
    "attention scale": mutate.change_attribute("GroupQueryAttention", "scale", 0.2),
    "bias zeroed": mutate.change_weight("layers.1.attn.qkv_proj.bias", zeroed),
    "a norm's weight x1.1": mutate.change_weight("layers.1.input_layernorm.weight", scaled(1.1)),
    "last row of the table": mutate.change_weight("embed_tokens.weight_q4", lambda array: zeroed(array[-1:])),
}


@pytest.mark.parametrize("name", MODEL)
def test_damage_of_the_graph_fails(
    name: str, graph_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, message = verdict(capsys, mutate.damaged(graph_bundle, tmp_path / "b", MODEL[name]))
    assert code == 3 and "cpu-int4 logits" in message, message


@pytest.mark.parametrize("where", ["everywhere", "in decode steps alone"])
def test_nan_fails(
    where: str, graph_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(graph_bundle / "golden" / "prefill-00.npz") as case:
        longest = case["inputs/input_ids"].shape[1]
    # Prompts end before that position of the rotary table, which the step after the longest is the first to read.
    place = 0 if where == "everywhere" else longest
    edit = mutate.change_weight("cos_cache", nan_from(place))
    code, message = verdict(capsys, mutate.damaged(graph_bundle, tmp_path / "b", edit))
    assert code == 3 and "cpu-int4 logits max_abs" in message, message


def test_damage_of_a_gguf_file_fails(
    file_bundle: Path, file_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit(folder: Path) -> None:
        from gguf import GGUFReader

        (path,) = folder.glob("model/*/*.gguf")
        (tensor,) = [item for item in GGUFReader(path).tensors if item.name == "blk.0.ffn_down.weight"]
        start, size = int(tensor.data_offset), int(tensor.n_bytes)
        data = bytearray(path.read_bytes())
        blocks = np.frombuffer(data, np.uint8, size, start).reshape(-1, 34)
        # A float16 scale, then 32 codes.
        blocks[:, :2] = (blocks[:, :2].copy().view(np.float16) * np.float16(1.5)).view(np.uint8)
        path.write_bytes(data)

    arguments = ("--against", file_model, "--gate", "kl_mean<=99")
    folder = mutate.damaged(file_bundle, tmp_path / "b", edit)
    code, message = verdict(capsys, folder, *arguments)
    assert code == 3 and "max_abs" in message and "golden_kl_mean" in message, message
    assert verdict(capsys, file_bundle, *arguments) == (0, "")


# -- nothing is damaged --


@pytest.mark.parametrize(
    "forced",
    [{"threads": 1}, {"threads": 4}, {"level": "ORT_ENABLE_BASIC"}, {"level": "ORT_ENABLE_EXTENDED"}],
    ids=str,
)
def test_the_undamaged_passes_however_it_is_run(
    forced: dict[str, Any],
    graph_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    usual = executors.session_options
    monkeypatch.setattr(executors, "session_options", lambda **options: usual(**(options | forced)))
    assert verdict(capsys, graph_bundle) == (0, "")


BASIC = "ORT_ENABLE_BASIC"


@pytest.fixture
def ordering_basic(graph_bundle: Path, tmp_path: Path) -> Path:
    """The bundle of an app that opens its sessions below the usual level."""

    def order(manifest: Any) -> None:
        (variant,) = manifest["variants"]
        variant["requirements"]["session_options"] = {"graph_optimization_level": BASIC}

    return Path(mutate.damaged(graph_bundle, tmp_path / "basic", mutate.change_json("edgeq.json", order)))


def test_a_level_that_is_ordered_is_obeyed(
    ordering_basic: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeq.pipeline.generation.bench import variant_specs
    from edgeq.runtime.generation import session

    opened = []
    usual = session.session_options
    monkeypatch.setattr(
        session, "session_options", lambda **options: opened.append(options["level"]) or usual(**options)
    )
    report = edgeq.validate(ordering_basic, against=model)
    assert report.variants[0].environment["optimization"] == BASIC
    assert opened == [BASIC]
    with open_bundle(ordering_basic) as bundle:
        LanguageModel(bundle)
        (spec,) = variant_specs(bundle, "", None, None).values()
    assert opened == [BASIC, BASIC] and spec.level == BASIC


@pytest.mark.parametrize("saturates", [False, True])
def test_sums_are_called_exact_only_where_they_are(
    saturates: bool, ordering_basic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the extended optimizations no option makes kernels exact that saturate."""
    monkeypatch.setattr(onnx_runtime, "kernels_saturate", lambda: True)
    placement: Any = mutate.change_json(
        "edgeq.json", lambda document: document["variants"][0]["placement"].update(can_saturate=["x"])
    )
    if saturates:
        placement(ordering_basic)
        mutate.sign(ordering_basic)
    found = edgeq.validate(ordering_basic).variants[0].environment["arithmetic"]
    title = Arithmetic.SATURATING if saturates else Arithmetic.EXACT
    assert found == onnx_runtime.ARITHMETIC_TITLES[title]


def test_a_bundle_says_what_arithmetic_its_metrics_come_from(graph_bundle: Path) -> None:
    with open_bundle(graph_bundle) as bundle:
        assert all("exact integer sums" in metric.environment for metric in bundle.manifest.metrics)


def test_signing_again_alone_changes_nothing(
    graph_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verdict(capsys, mutate.damaged(graph_bundle, tmp_path / "b", lambda _: None)) == (0, "")


def without_record(folder: Path) -> None:
    (folder / "golden/language.json").unlink()


def test_a_bundle_without_a_record_says_so(
    graph_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = mutate.damaged(graph_bundle, tmp_path / "lost", without_record)
    code, message = verdict(capsys, folder)
    assert code == 4 and "language_golden: the file `golden/language.json` is not in" in " ".join(
        message.split()
    )
    # As older versions wrote it.
    unnamed = mutate.change_json("edgeq.json", lambda manifest: manifest.pop("language_golden"))
    folder = mutate.damaged(folder, tmp_path / "b", unnamed)
    assert run_command_line(["validate", str(folder)]) == 0
    assert "has no golden/language.json" in " ".join(capsys.readouterr().err.split())
    # What the manifest says is still held against it.
    context = mutate.change_json(GENERATION, set_to("context_length", value=8))
    code, message = verdict(capsys, mutate.damaged(folder, tmp_path / "c", context))
    assert code == 3 and "context_length is 8" in message
