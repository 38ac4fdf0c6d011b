"""GGUF files through llama.cpp, where llama-cpp-python is installed: logits of a text, and tokens one by one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.errors import DataError, MissingExtraError, ModelError
from edgeq.runtime.generation.sampling import Sampler, Sampling
from edgeq.types import Array, FloatArray

PACKAGE = "llama-cpp-python"
PROMPT_CHUNK = 128
"""Tokens of a prompt run at once, as in `DecoderSession`."""


def is_installed() -> bool:
    """Whether llama-cpp-python can be imported."""
    return find_spec("llama_cpp") is not None


def package_version() -> str:
    """Of llama-cpp-python."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return str(load_library().__version__)


class LlamaCppModel:
    """A GGUF file loaded by llama.cpp, on the CPU, one sequence at a time.

    Args:
        path: the file.
        threads: None lets llama.cpp choose.
        exact: attention in float32 throughout, instead of float16 for keys, values and products of both.

    Attributes:
        vocabulary: size of a row of logits.
        context_length: that the model was trained for.

    Raises:
        MissingExtraError: llama-cpp-python is not installed.
        ModelError: llama.cpp refuses the file.
    """

    def __init__(self, path: Path, *, threads: int | None = None, exact: bool = False) -> None:
        self._lib = load_library()
        self._path, self._threads, self._exact = path, threads, exact
        self._context, self._capacity = None, 0
        model_params = self._lib.llama_model_default_params()
        model_params.n_gpu_layers = 0
        self._model = self._lib.llama_model_load_from_file(str(path).encode(), model_params)
        if not self._model:
            raise ModelError(f"llama.cpp cannot load `{path}`{_why()}")
        self.vocabulary = int(self._lib.llama_vocab_n_tokens(self._lib.llama_model_get_vocab(self._model)))
        self.context_length = int(self._lib.llama_model_n_ctx_train(self._model))
        self._batch = self._lib.llama_batch_init(PROMPT_CHUNK, 0, 1)

    def __del__(self) -> None:
        """Give the memory back: it is not Python's."""
        if getattr(self, "_batch", None) is not None:
            self._lib.llama_batch_free(self._batch)
            if self._context:
                self._lib.llama_free(self._context)
            self._lib.llama_model_free(self._model)

    def start(self, capacity: int) -> None:
        """Forget everything that was fed, and make room for a sequence.

        Args:
            capacity: most tokens that will be fed.

        Raises:
            ModelError: llama.cpp cannot make the room.
        """
        if self._context and capacity <= self._capacity:
            self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
            return
        if self._context:
            self._lib.llama_free(self._context)
        params = self._lib.llama_context_default_params()
        params.n_ctx = capacity
        params.n_batch = params.n_ubatch = PROMPT_CHUNK
        if self._exact:
            params.type_k = params.type_v = self._lib.GGML_TYPE_F32
            params.flash_attn_type = self._lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if self._threads is not None:
            params.n_threads = params.n_threads_batch = self._threads
        self._context = self._lib.llama_init_from_model(self._model, params)
        if not self._context:
            raise ModelError(f"llama.cpp cannot make room for {capacity} tokens of `{self._path}`{_why()}")
        self._capacity = capacity

    def feed(self, token_ids: Sequence[int] | Array, at: int, *, every: bool = True) -> FloatArray:
        """Run some more tokens.

        Args:
            token_ids: at least one.
            at: how many were fed before.
            every: logits after each of them; otherwise after the last alone.

        Returns:
            `[tokens or 1, vocabulary]`.

        Raises:
            DataError: no tokens, or more than fit.
            ModelError: llama.cpp fails on them.
        """
        ids = [int(token) for token in token_ids]
        if not ids or at + len(ids) > self._capacity:
            raise DataError(f"{at + len(ids)} tokens, {len(ids)} of them new, in room for {self._capacity}")
        parts = []
        for start in range(0, len(ids), PROMPT_CHUNK):
            part = ids[start : start + PROMPT_CHUNK]
            is_end = start + len(part) == len(ids)
            parts.append(self._decode(part, at + start, every=every, last=is_end))
        return np.concatenate(parts)

    def logits(self, token_ids: Sequence[int] | Array) -> FloatArray:
        """Logits of a whole sequence, `[tokens, vocabulary]`."""
        self.start(len(token_ids))
        return self.feed(token_ids, 0)

    def state_bytes(self) -> int:
        """Of the sequence in the cache: keys, values, and some bytes for each position."""
        return int(self._lib.llama_state_seq_get_size(self._context, 0))

    def tokenize(self, text: str, *, add_special: bool = True) -> list[int]:
        """Token ids as llama.cpp makes them from the file's own tokenizer."""
        vocabulary = self._lib.llama_model_get_vocab(self._model)
        data = text.encode()
        room = len(data) + 8
        ids = (self._lib.llama_token * room)()
        count = self._lib.llama_tokenize(vocabulary, data, len(data), ids, room, add_special, False)
        if count < 0:
            raise ModelError(f"llama.cpp needs {-count} tokens for {len(data)} bytes")
        return [int(token) for token in ids[:count]]

    def _decode(self, ids: Sequence[int], at: int, *, every: bool, last: bool) -> FloatArray:
        batch = self._batch
        batch.n_tokens = len(ids)
        for index, token in enumerate(ids):
            batch.token[index], batch.pos[index] = token, at + index
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
            batch.logits[index] = every or (last and index == len(ids) - 1)
        if self._lib.llama_decode(self._context, batch) != 0:
            raise ModelError(f"llama.cpp failed on `{self._path}` after {at} tokens{_why()}")
        wanted = [index for index in range(len(ids)) if batch.logits[index]]
        rows: FloatArray = np.empty((len(wanted), self.vocabulary), np.float32)
        for row, index in enumerate(wanted):
            pointer = self._lib.llama_get_logits_ith(self._context, index)
            rows[row] = np.ctypeslib.as_array(pointer, (self.vocabulary,))
        return rows


class LlamaCppTokens:
    """Tokens from llama.cpp, chosen by the sampler that every engine here uses.

    Args:
        path: a GGUF file.
        threads: None lets llama.cpp choose.

    Raises:
        MissingExtraError: llama-cpp-python is not installed.
        ModelError: llama.cpp refuses the file.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        self.model = LlamaCppModel(path, threads=threads)

    def __call__(self, prompt_ids: Sequence[int], sampling: Sampling, capacity: int) -> Iterator[int]:
        """Tokens after a prompt; `capacity` tokens in all fit."""
        sampler = Sampler(sampling)
        seen = list(prompt_ids)
        self.model.start(capacity)
        logits = self.model.feed(seen, 0, every=False)[-1]
        while True:
            token = sampler.next(logits, seen)
            yield token
            seen.append(token)
            if len(seen) >= capacity:
                return
            logits = self.model.feed([token], len(seen) - 1)[-1]


_ERROR_LEVEL = 4
_errors: deque[str] = deque(maxlen=3)
"""What llama.cpp said last; its functions return only that they failed."""


def load_library() -> Any:
    """The bindings, told once to be silent: llama.cpp talks to stderr, which belongs to edgeq.

    Raises:
        MissingExtraError: llama-cpp-python is not installed.
    """
    if not is_installed():
        raise MissingExtraError("running a GGUF file", "llama")
    import llama_cpp

    if not hasattr(llama_cpp, "_edgeq_log"):

        def keep_errors(level: int, text: bytes, _: object) -> None:
            if level == _ERROR_LEVEL:
                _errors.append(text.decode("utf-8", errors="replace").strip())

        # The callback must outlive every call, so the module keeps it.
        llama_cpp._edgeq_log = llama_cpp.llama_log_callback(keep_errors)
        llama_cpp.llama_log_set(llama_cpp._edgeq_log, None)
        llama_cpp.llama_backend_init()
    _errors.clear()
    return llama_cpp


def _why() -> str:
    """llama.cpp's own last words."""
    return f": {'; '.join(_errors)}" if _errors else ""
