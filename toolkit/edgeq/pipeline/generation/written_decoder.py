"""A written decoder as it is compared with the original: in a session as a device has it, or a large one in segments.

A session holds all weights, packed for the CPU's kernels, and float16 as float32. Segments of the same file run the
same kernels on the same weights, some nodes at a time, and memory does not depend on the file's size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgeq.onnx_runtime import DEFAULT_LEVEL, OptimizationLevel
from edgeq.quantize.segmented.sequences import Chunk, run_sequences
from edgeq.quantize.streaming.save import open_by_reference
from edgeq.runtime.generation.session import DecoderSession
from edgeq.runtime.perplexity import Window, scored_logits
from edgeq.targets.kernels import is_held_whole
from edgeq.types import Array, FloatArray

if TYPE_CHECKING:
    from edgeq.runtime.generation.settings import GenerationSettings


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A prompt through a decoder, and its likeliest token after it.

    Attributes:
        prompt: token ids.
        empty: the cache before the prompt, by input.
        logits: after each token of the prompt.
        past: the cache after it.
        token: the likeliest one, `[1]`.
        step: logits after that.
    """

    prompt: Array
    empty: dict[str, Array]
    logits: FloatArray
    past: dict[str, Array]
    token: Array
    step: FloatArray


class WrittenDecoder(Protocol):
    """A file that is run."""

    @property
    def level(self) -> OptimizationLevel:
        """Of its sessions."""

    def scored(self, windows: Sequence[Window]) -> Iterator[FloatArray]:
        """Of each window, the logits that predict its scored tokens."""

    def answers(self, prompts: Sequence[Sequence[int]]) -> list[Answer]:
        """Every prompt from an empty cache, and the step after it."""


def open_written(
    model: Path, settings: GenerationSettings, level: OptimizationLevel = DEFAULT_LEVEL
) -> WrittenDecoder:
    """The file whole, where it is small enough.

    Args:
        model: the file.
        settings: of the model.
        level: graph optimizations of a session. Segments are the nodes of the file as they are, at any level.
    """
    if is_held_whole(model):
        return WholeDecoder(
            DecoderSession(model, settings.cache, settings.context_length, level=level), level
        )
    return DecoderInSegments(model)


@dataclass(frozen=True, slots=True, eq=False)
class WholeDecoder:
    """In one session.

    Attributes:
        session: holds it.
        level: at which that was opened.
    """

    session: DecoderSession
    level: OptimizationLevel = DEFAULT_LEVEL

    def scored(self, windows: Sequence[Window]) -> Iterator[FloatArray]:
        """Of each window, the logits that predict its scored tokens."""
        return scored_logits(self.session.logits, windows)

    def answers(self, prompts: Sequence[Sequence[int]]) -> list[Answer]:
        """Every prompt from an empty cache, and the step after it."""
        return [self._answer(np.asarray(prompt, np.int64)) for prompt in prompts]

    def _answer(self, ids: Array) -> Answer:
        session = self.session
        state = session.start(len(ids) + 1)
        empty = {name: value[:, :, :0].copy() for name, value in session.snapshot(state).items()}
        logits = session.feed(state, ids)
        past = session.snapshot(state)
        token = np.asarray([int(logits[-1].argmax())], np.int64)
        return Answer(ids, empty, logits, past, token, session.feed(state, token))


@dataclass(frozen=True, slots=True, eq=False)
class DecoderInSegments:
    """Some nodes at a time.

    Attributes:
        model: the file.
        level: of the sessions of some nodes.
    """

    model: Path
    level: OptimizationLevel = DEFAULT_LEVEL

    def scored(self, windows: Sequence[Window]) -> Iterator[FloatArray]:
        """Of each window, the logits that predict its scored tokens."""
        chunks = [Chunk(window.ids) for window in windows]
        outputs = run_sequences(open_by_reference(self.model), chunks)
        for values, window in zip(outputs, windows, strict=True):
            yield values["logits"][0, window.first_scored - 1 : -1]

    def answers(self, prompts: Sequence[Sequence[int]]) -> list[Answer]:
        """Every prompt from an empty cache, and the step after it: the prompts are run twice."""
        graph = open_by_reference(self.model)
        ids = [np.asarray(prompt, np.int64) for prompt in prompts]
        first = list(run_sequences(graph, [Chunk(prompt) for prompt in ids], with_cache=True))
        tokens = [np.asarray([int(values["logits"][0, -1].argmax())], np.int64) for values in first]
        pairs = zip(ids, tokens, strict=True)
        chunks = [chunk for prompt, token in pairs for chunk in (Chunk(prompt), Chunk(token, len(prompt)))]
        steps = [values["logits"][0] for values in run_sequences(graph, chunks)][1::2]
        found = []
        for prompt, values, token, step in zip(ids, first, tokens, steps, strict=True):
            past = {
                name.replace("present", "past_key_values"): cache
                for name, cache in values.items()
                if name.startswith("present")
            }
            empty = {name: np.ascontiguousarray(cache[:, :, :0]) for name, cache in past.items()}
            found.append(Answer(prompt, empty, values["logits"][0], past, token, step))
        return found
