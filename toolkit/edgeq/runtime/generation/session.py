"""A decoder with its KV cache on plain ONNX Runtime: feed tokens, get logits, any number at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.errors import DataError, ModelError
from edgeq.onnx_runtime import DEFAULT_LEVEL, OptimizationLevel, session_options
from edgeq.runtime.generation.settings import CacheShape
from edgeq.text_inputs import ATTENTION_MASK, INPUT_IDS
from edgeq.types import Array, FloatArray

PREFILL_CHUNK = 128
"""Tokens of a prompt run at once: bounds the logits held, and is long enough for the matrix kernels."""


@dataclass(slots=True, eq=False)
class DecoderState:
    """The cache of one sequence.

    Attributes:
        length: tokens in it.
        capacity: most tokens it can hold.
        past: key and value of every layer, as ONNX Runtime holds them, by input name.
        binding: with the cache bound, where past and present stay one buffer.
    """

    length: int
    capacity: int
    past: dict[str, Any] = field(repr=False)
    binding: Any = field(default=None, repr=False)


class DecoderSession:
    """Runs a decoder graph for one sequence at a time.

    Args:
        model_path: a graph with `input_ids`, `attention_mask`, `past_key_values.N.key/value` and `logits`,
            `present.N.key/value`.
        cache: shape of the cache.
        context_length: most tokens of a sequence.
        level: graph optimizations.
        threads: intra-op threads; None lets ONNX Runtime choose.
        options: an `onnxruntime.SessionOptions` to use instead of level and threads, such as one that profiles.

    Raises:
        ModelError: ONNX Runtime cannot load the model, or it is no such graph.
    """

    def __init__(
        self,
        model_path: Path,
        cache: CacheShape,
        context_length: int,
        *,
        level: OptimizationLevel = DEFAULT_LEVEL,
        threads: int | None = None,
        options: Any = None,
    ) -> None:
        self.cache = cache
        self.context_length = context_length
        self._path = model_path
        options = session_options(level=level, threads=threads) if options is None else options
        self._session = _load(model_path, options)
        self._past = [f"past_key_values.{n}.{part}" for n in range(cache.layers) for part in ("key", "value")]
        self._present = [f"present.{n}.{part}" for n in range(cache.layers) for part in ("key", "value")]
        self._check_names()

    def start(self, capacity: int | None = None) -> DecoderState:
        """An empty cache.

        Args:
            capacity: most tokens that will be fed; the context length when left out. Graphs that share past
                and present allocate it at once.

        Raises:
            DataError: more than the context length.
        """
        tokens = self.context_length if capacity is None else capacity
        if not 1 <= tokens <= self.context_length:
            raise DataError(f"a cache of {tokens} tokens; the model's context is {self.context_length}")
        length = tokens if self.cache.shares_buffer else 0
        empty = np.zeros((1, self.cache.heads, length, self.cache.size), np.float32)
        return DecoderState(0, tokens, {name: _ort_value(empty.copy()) for name in self._past})

    def feed(self, state: DecoderState, token_ids: Sequence[int] | Array) -> FloatArray:
        """Run some more tokens; the state grows by them.

        Args:
            state: from `start`; changed in place.
            token_ids: at least one.

        Returns:
            Logits after each of them, `[tokens, vocabulary]`.

        Raises:
            DataError: no tokens, or more than fit.
            ModelError: ONNX Runtime fails on them.
        """
        ids = np.asarray(token_ids, np.int64).reshape(1, -1)
        total = state.length + ids.shape[1]
        if ids.shape[1] == 0:
            raise DataError("no tokens to feed")
        if total > state.capacity:
            raise DataError(f"{total} tokens do not fit a cache of {state.capacity}")
        binding = self._bound(state)
        binding.bind_cpu_input(INPUT_IDS, ids)
        binding.bind_cpu_input(ATTENTION_MASK, np.ones((1, total), np.int64))
        logits = self._run(binding, state)
        state.length = total
        result: FloatArray = logits[0]
        return result

    def prefill(self, state: DecoderState, token_ids: Sequence[int] | Array) -> FloatArray:
        """Run a prompt in chunks; returns the logits after its last token, `[vocabulary]`.

        Raises:
            DataError: as `feed`.
        """
        ids = np.asarray(token_ids, np.int64).reshape(-1)
        if ids.size == 0:
            raise DataError("the prompt has no tokens")
        for begin in range(0, ids.size, PREFILL_CHUNK):
            logits = self.feed(state, ids[begin : begin + PREFILL_CHUNK])
        last: FloatArray = logits[-1]
        return last

    def logits(self, token_ids: Sequence[int] | Array) -> FloatArray:
        """Logits of a whole sequence from an empty cache, `[tokens, vocabulary]`."""
        ids = np.asarray(token_ids, np.int64).reshape(-1)
        state = self.start(ids.size)
        parts = [self.feed(state, ids[at : at + PREFILL_CHUNK]) for at in range(0, ids.size, PREFILL_CHUNK)]
        return np.concatenate(parts)

    def end_profiling(self) -> str:
        """Path of what a profiling session wrote."""
        return str(self._session.end_profiling())

    def snapshot(self, state: DecoderState) -> dict[str, FloatArray]:
        """The cache as arrays `[1, heads, length, size]`, by input name: a prompt that many answers share."""
        return {name: value.numpy()[:, :, : state.length].copy() for name, value in state.past.items()}

    def restore(self, arrays: Mapping[str, Array], capacity: int | None = None) -> DecoderState:
        """A state from what `snapshot` returned.

        Raises:
            DataError: arrays are missing, of another shape or type, of different lengths, or not finite.
        """
        length = self._check_cache(arrays)
        state = self.start(capacity)
        if length > state.capacity:
            raise DataError(f"a cache of {length} tokens does not fit into {state.capacity}")
        for name in self._past:
            array = np.ascontiguousarray(arrays[name], np.float32)
            if self.cache.shares_buffer:
                room = np.zeros((1, self.cache.heads, state.capacity, self.cache.size), np.float32)
                room[:, :, :length] = array
                array = room
            state.past[name] = _ort_value(array)
        state.length = length
        return state

    def _bound(self, state: DecoderState) -> Any:
        """A binding of the cache; shared buffers are bound once, which saves a call per layer and token."""
        if state.binding is not None:
            return state.binding
        binding = self._session.io_binding()
        for past, present in zip(self._past, self._present, strict=True):
            binding.bind_ortvalue_input(past, state.past[past])
            if self.cache.shares_buffer:
                binding.bind_ortvalue_output(present, state.past[past])
            else:
                binding.bind_output(present)
        if self.cache.shares_buffer:
            state.binding = binding
        return binding

    def _run(self, binding: Any, state: DecoderState) -> FloatArray:
        """Run, and take the new cache over."""
        # Anew each time: the last run's logits are of another length, and may be in use.
        binding.bind_output("logits")
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise ModelError(f"`{self._path}` failed after {state.length} tokens: {error}") from error
        outputs = dict(zip([*self._present, "logits"], binding.get_outputs(), strict=True))
        logits: FloatArray = outputs.pop("logits").numpy()
        if not self.cache.shares_buffer:
            state.past = {past: outputs[name] for past, name in zip(self._past, self._present, strict=True)}
        return logits

    def _check_names(self) -> None:
        expected = {INPUT_IDS, ATTENTION_MASK, *self._past}
        inputs = {item.name for item in self._session.get_inputs()}
        outputs = {item.name for item in self._session.get_outputs()}
        if inputs != expected or outputs != {"logits", *self._present}:
            raise ModelError(
                f"`{self._path}` is not a decoder of {self.cache.layers} layers: it has inputs "
                f"{', '.join(sorted(inputs))}, expected {', '.join(sorted(expected))}"
            )

    def _check_cache(self, arrays: Mapping[str, Array]) -> int:
        """Tokens in a cache that fits the model."""
        missing = [name for name in self._past if name not in arrays]
        if missing or len(arrays) != len(self._past):
            raise DataError(
                f"the cache has {len(arrays)} arrays, expected {len(self._past)}, first {self._past[0]}"
            )
        length = int(np.shape(arrays[self._past[0]])[2]) if np.ndim(arrays[self._past[0]]) == 4 else -1
        wanted = (1, self.cache.heads, length, self.cache.size)
        for name in self._past:
            array = np.asarray(arrays[name])
            if array.shape != wanted or array.dtype != np.float32:
                raise DataError(
                    f"`{name}` of the cache is {array.dtype} {list(array.shape)}, expected float32 "
                    f"[1, {self.cache.heads}, tokens, {self.cache.size}]"
                )
            if not np.isfinite(array).all():
                raise DataError(f"`{name}` of the cache holds NaN or infinite values")
        return length


def _ort_value(array: Array) -> Any:
    import onnxruntime

    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _load(model_path: Path, options: Any) -> Any:
    import onnxruntime

    if not model_path.is_file():
        raise ModelError(f"there is no model at `{model_path}`")
    try:
        return onnxruntime.InferenceSession(str(model_path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise ModelError(f"ONNX Runtime cannot load `{model_path}`: {error}") from error
