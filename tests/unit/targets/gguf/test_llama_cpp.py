"""llama.cpp itself on written files: the same predictions and the same tokens. Needs llama-cpp-python."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.errors import DataError, ModelError
from edgeq.exporters.causal_lm import open_original
from edgeq.families import FAMILIES
from edgeq.processors.prompts import PromptTokenizer
from edgeq.runtime.generation.llama_cpp import LlamaCppModel, LlamaCppTokens
from edgeq.runtime.generation.sampling import Sampling
from edgeq.runtime.perplexity import greedy
from edgeq.targets.gguf.session import GgufSession
from edgeq.targets.gguf.target import TARGET
from edgeq.targets.gguf.writer import write_gguf
from edgeq.targets.target import CheckpointInput

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: pip install 'edgeq[llama]'")
pytest.importorskip("gguf")

READ = [name for name, family in FAMILIES.items() if family.gguf.is_read]
GELU = ("gemma2", "gemma3_text", "gpt2")
HALF = 2.0**-10
"""Relative step of float16, in which llama.cpp keeps keys and values."""
TEXT = "the theater: It's 1234 in the h\u00e9ll \u65e5\u672c\n\n  or er a"
SENTENCES = (
    "the theater in the end",
    " in  the\nmorning",
    "theringer",
    "tthhee  the",
    "\u00e9t\u00e9 \u65e5\u672c in",
)
Open = Callable[..., Any]


def ids_of(count: int = 40) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, count)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.mark.parametrize("family", READ)
def test_llama_cpp_predicts_what_the_original_does(family: str, opened: Open, tmp_path: Path) -> None:
    path, ids = tmp_path / "f32.gguf", ids_of()
    model = opened(family)
    write_gguf(model.source, "f32", path)
    expected = model.original.reference(ids[None])[0]
    found = LlamaCppModel(path, exact=True)
    # Sums of float32 in another order, some units of its last place; GELU is a table of float16.
    bound = HALF if family in GELU else 64 * np.finfo(np.float32).eps
    assert relative(found.logits(ids), expected) < bound
    assert relative(found.logits(ids[::-1]), expected) > 100 * HALF
    assert HALF / 64 < relative(LlamaCppModel(path).logits(ids), expected) < 4 * HALF
    assert found.tokenize(TEXT) == PromptTokenizer(model.source.tokenizer_json).encode(TEXT)
    assert found.tokenize(TEXT) != found.tokenize(TEXT + "x")


@pytest.mark.parametrize("kind", ["q8_0", "q5_0", "q4_k_m", "q6_k", "bf16"])
def test_it_is_as_far_from_the_original_as_was_simulated(kind: str, opened: Open, tmp_path: Path) -> None:
    path, ids = tmp_path / "file.gguf", ids_of(100)
    model = opened("llama", hidden_size=256, intermediate_size=512)
    write_gguf(model.source, kind, path)
    config, shapes = model.original.config, model.shapes
    simulated = model.original.with_weights(
        TARGET.read_back(path, config, shapes), TARGET.rounding(path, config, shapes)
    )
    original = model.original.reference(ids[None])[0]
    executed = LlamaCppModel(path).logits(ids)
    own = float(np.square(executed - original).mean())
    ours = float(np.square(simulated(ids[None])[0] - original).mean())
    # The same rounding of weights and inputs; which way a single input is rounded hangs on the last bits.
    assert 0.7 < own / ours < 1.4
    assert own > 4 * HALF**2 * float(np.square(original).mean()) or kind == "bf16"


def test_tokens_sessions_and_bad_input(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "f32.gguf"
    model = opened("llama")
    write_gguf(model.source, "f32", path)
    reference = model.original.reference
    prompt = [256, 65, 66, 67]
    expected = greedy(lambda ids: reference(ids[None])[0], prompt, 12)
    assert list(LlamaCppTokens(path)(prompt, Sampling(), 16)) == expected
    session = GgufSession(path)
    batch = np.stack([ids_of(9), ids_of(9)[::-1]])
    assert relative(session.run({"input_ids": batch})["logits"], reference(batch)) < HALF
    loaded = LlamaCppModel(path)
    loaded.start(4)
    with pytest.raises(DataError, match="in room for 4"):
        loaded.feed(range(5), 0)
    with pytest.raises(DataError, match="0 tokens"):
        loaded.feed([], 0)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"llama.cpp cannot load"):
        LlamaCppModel(path)


@pytest.mark.parametrize("text", SENTENCES)
def test_sentence_piece_texts_become_the_same_tokens(
    text: str, sentence_piece_file: tuple[Path, str]
) -> None:
    path, tokenizer_json = sentence_piece_file
    found = LlamaCppModel(path).tokenize(text)
    assert found == PromptTokenizer(tokenizer_json).encode(text)
    assert found != PromptTokenizer(tokenizer_json).encode(text + "e")


@pytest.fixture(scope="module")
def sentence_piece_file(
    tiny_decoder: Callable[..., Path], tiny_decoders: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A file with a tokenizer of the older Llamas, and that tokenizer."""
    folder = tmp_path_factory.mktemp("sentence-piece")
    shutil.copytree(tiny_decoder("llama", vocab_size=300), folder, dirs_exist_ok=True)
    document = json.dumps(tiny_decoders.sentence_piece_document())
    (folder / "tokenizer.json").write_text(document)
    original = open_original(folder)
    source = CheckpointInput(
        name="sentence-piece",
        config=original.config,
        tensors=original.tensors,
        tokenizer_json=document,
        special_ids={"bos_token": 1, "eos_token": 2, "unk_token": 0},
        settings=original.settings,
        about=original.source,
        observe=lambda *_: {},
    )
    write_gguf(source, "f16", folder / "f16.gguf")
    return folder / "f16.gguf", document
