"""Engines in processes of their own: llama.cpp by its C functions (a fake of them), and what goes wrong."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeq.errors import ModelError, UnsupportedError
from edgeq.runtime.generation.engine_process import LLAMA_CPP, ONNX_RUNTIME, EngineProcess, EngineSpec
from edgeq.runtime.generation.settings import CacheShape

FAKE = """
import ctypes, os, signal, sys
from types import SimpleNamespace

# The next token is the sum of all tokens in the cache; the state grows by 100 bytes a token.
__version__ = "fake"
VOCABULARY = 50
GGML_TYPE_F32 = 0
cells, made, log = [], [], []
logits = (ctypes.c_float * VOCABULARY)()


def llama_model_load_from_file(path, parameters):
    log[0](3, b"loading", None)
    if b"bad" in path:
        log[0](4, b"no such tensor", None)
        return None
    return "model"


def llama_init_from_model(model, parameters):
    print("to stdout")
    made.append((parameters.n_ctx, getattr(parameters, "n_threads", None)))
    print("contexts", made, file=sys.stderr)
    return "context"


def llama_batch_init(size, embeddings, sequences):
    return SimpleNamespace(
        token=[0] * size,
        pos=[0] * size,
        n_seq_id=[0] * size,
        seq_id=[[0] for _ in range(size)],
        logits=[False] * size,
    )


def llama_decode(context, batch):
    tokens = batch.token[: batch.n_tokens]
    cells.extend(tokens)
    if 13 in tokens:
        os.kill(os.getpid(), signal.SIGSEGV)
    for index in range(VOCABULARY):
        logits[index] = float(index == sum(cells) % VOCABULARY)
    return 1 if 17 in tokens else 0


def llama_get_logits_ith(context, index):
    return ctypes.cast(logits, ctypes.POINTER(ctypes.c_float))


llama_log_callback = lambda function: function
llama_log_set = lambda callback, _: log.append(callback)
llama_backend_init = lambda: None
llama_model_default_params = llama_context_default_params = SimpleNamespace
llama_model_get_vocab = lambda model: "vocabulary"
llama_vocab_n_tokens = lambda vocabulary: VOCABULARY
llama_model_n_ctx_train = lambda model: 2000
llama_free = llama_model_free = llama_batch_free = lambda thing: None
llama_get_memory = lambda context: "memory"
llama_memory_clear = lambda memory, data: cells.clear()
llama_state_seq_get_size = lambda context, sequence: 8 + 100 * len(cells)
"""


@pytest.fixture(scope="module")
def fake_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has the fake."""
    folder = tmp_path_factory.mktemp("llama")
    (folder / "llama_cpp.py").write_text(FAKE)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return python


@pytest.fixture
def spec(fake_python: Path, tmp_path: Path) -> Callable[..., EngineSpec]:
    def make(name: str = "m.gguf", threads: int | None = 2) -> EngineSpec:
        return EngineSpec(LLAMA_CPP, tmp_path / name, threads, python=fake_python)

    return make


def test_llama_cpp_reads_and_writes(spec: Callable[..., EngineSpec]) -> None:
    with EngineProcess(spec()) as process:
        assert (process.version, process.vocabulary, process.context) == ("fake", 50, 2000)
        answer = process([1, 2], 3)
        # 3, then 3 + 3, then twice the sum again and again; twice the same, so that the cache is emptied between.
        assert answer.tokens == (3, 6, 12, 24)
        assert process([1, 2], 3).tokens == answer.tokens
        assert answer.kv_bytes_per_token == 100
        assert len(process([1] * 1100, 2).tokens) == 3  # more than one batch
        process._log.seek(0)
        # Room is made once for what is needed, and again only for more.
        assert process._log.read().splitlines()[-1] == "contexts [(6, 2), (1103, 2)]"


@pytest.mark.parametrize(
    ("prompt", "message"), [([13], "ended with SIGSEGV"), ([17], r"failed on .* after 0 tokens")]
)
def test_llama_cpp_fails(prompt: list[int], message: str, spec: Callable[..., EngineSpec]) -> None:
    with EngineProcess(spec()) as process, pytest.raises(ModelError, match=message):
        process(prompt, 1)


def test_a_file_that_llama_cpp_cannot_load(spec: Callable[..., EngineSpec]) -> None:
    """With what its log says is wrong, and without what it says besides."""
    with pytest.raises(ModelError, match=r"cannot load .*: no such tensor"):
        EngineProcess(spec("bad.gguf"))


def test_an_interpreter_without_llama_cpp(tmp_path: Path) -> None:
    if importlib.util.find_spec("llama_cpp"):
        pytest.skip("llama-cpp-python is installed here")
    with pytest.raises(UnsupportedError, match="has no llama-cpp-python") as caught:
        EngineProcess(EngineSpec(LLAMA_CPP, tmp_path / "m.gguf"))
    assert "--llama-python" in str(caught.value.hint)


def test_an_interpreter_without_edgeq(tmp_path: Path) -> None:
    """edgeq is found beside the script; what is missed of other packages is what llama.cpp needs."""
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n', encoding="utf-8")
    bare.chmod(0o755)
    with pytest.raises(ModelError, match="No module named 'numpy'"):
        EngineProcess(EngineSpec(LLAMA_CPP, tmp_path / "m.gguf", python=bare))


def test_no_interpreter(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be started"):
        EngineProcess(EngineSpec(LLAMA_CPP, tmp_path / "m.gguf", python=tmp_path / "none"))


def test_the_level_reaches_the_process(tmp_path: Path) -> None:
    """Which says what is wrong with a level that there is not."""
    model = tmp_path / "m.onnx"
    shape = (model, 1, CacheShape(1, 1, 1), 8, 8)
    with pytest.raises(ModelError, match="ORT_ENABLE_NONE"):
        EngineProcess(EngineSpec(ONNX_RUNTIME, *shape, level="ORT_ENABLE_NONE"))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="there is no model at"):
        EngineProcess(EngineSpec(ONNX_RUNTIME, *shape, level="ORT_ENABLE_BASIC"))


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no model at"):
        EngineProcess(EngineSpec(ONNX_RUNTIME, tmp_path / "m.onnx", 1, CacheShape(1, 1, 1), 8, 8))


def test_the_real_llama_cpp(tiny_decoder: Callable[..., Path], gguf_files: Any, tmp_path: Path) -> None:
    """Its greedy tokens are transformers' own. EDGEQ_TEST_LLAMA_PYTHON: one that has it."""
    named = os.environ.get("EDGEQ_TEST_LLAMA_PYTHON")
    if named is None and importlib.util.find_spec("llama_cpp") is None:
        pytest.skip(
            "llama-cpp-python is not installed, and EDGEQ_TEST_LLAMA_PYTHON names no interpreter that has it"
        )
    pytest.importorskip("gguf")
    import torch
    from transformers import AutoModelForCausalLM

    folder = tiny_decoder("llama")
    # llama.cpp wants merges in every vocabulary of bytes, and a token for every embedding.
    path = gguf_files.write_gguf(
        tmp_path / "m.gguf",
        folder,
        tokenizer__ggml__merges=["a b"],
        tokenizer__ggml__tokens=[f"t{number}" for number in range(288)],
        tokenizer__ggml__token_type=[1] * 288,
    )
    with EngineProcess(EngineSpec(LLAMA_CPP, path, 1, python=Path(named) if named else None)) as process:
        answer = process([5, 6, 7], 5)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = [5, 6, 7]
    with torch.no_grad():
        for _ in range(6):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    assert list(answer.tokens) == ids[3:]
