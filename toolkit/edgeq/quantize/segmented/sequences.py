"""A decoder run over some token sequences, a segment at a time: its weights need not fit in memory together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.quantize.segmented.values import Values, ValueStore
from edgeq.quantize.segmented.walk import SEGMENT_BYTES, Chain, Walk, run_over
from edgeq.text_inputs import ATTENTION_MASK, INPUT_IDS
from edgeq.types import Array

if TYPE_CHECKING:
    import onnx_ir as ir

RAM_BYTES = 64 << 20
"""Hidden states held in memory between segments; the rest lies in a temporary file."""


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Tokens that are run at once.

    Attributes:
        ids: `[tokens]`.
        past: tokens in the cache before them: those of the chunk before, for all but the first of a sequence.
    """

    ids: Array
    past: int = 0


def in_chunks(ids: Array, sizes: Sequence[int]) -> list[Chunk]:
    """A sequence cut into chunks that continue each other; the last one takes what is left."""
    found, at = [], 0
    for size in (*sizes, len(ids)):
        piece = ids[at : at + size]
        if len(piece):
            found.append(Chunk(piece, at))
        at += len(piece)
    return found


def run_sequences(
    model: ir.Model,
    chunks: Sequence[Chunk],
    *,
    with_cache: bool = False,
    segment_bytes: int = SEGMENT_BYTES,
    threads: int | None = None,
) -> Iterator[Values]:
    """Outputs of a decoder graph for each chunk, in order.

    All chunks go through one segment before the next is loaded. The outputs are computed as they are asked for.

    Args:
        model: inputs `input_ids`, `attention_mask`, `past_key_values.N.key/value`; outputs `logits` and
            `present.N.key/value`.
        chunks: those with a past continue the one before.
        with_cache: return `present.*` too, and not `logits` alone.
        segment_bytes: most bytes of weights in one segment.
        threads: of onnxruntime.
    """
    chain = Chain(_cache_of(model), [chunk.past > 0 for chunk in chunks])
    wanted = ["logits", *(chain.links.values() if with_cache or any(chain.continues) else ())]
    walk = Walk(model, outputs=wanted, segment_bytes=segment_bytes, threads=threads)
    yield from _run(walk, [_feeds(model, chunk) for chunk in chunks], wanted, chain)


def run_steps(
    model: ir.Model,
    steps: Sequence[Values],
    *,
    segment_bytes: int = SEGMENT_BYTES,
    threads: int | None = None,
) -> Iterator[Values]:
    """Logits of a decoder graph for each step, in order; as `run_sequences`.

    Args:
        model: as for `run_sequences`.
        steps: all inputs of the graph, the cache among them: none continues another.
        segment_bytes: most bytes of weights in one segment.
        threads: of onnxruntime.
    """
    walk = Walk(model, outputs=["logits"], segment_bytes=segment_bytes, threads=threads)
    yield from _run(walk, steps, ["logits"], Chain({}, [False] * len(steps)))


def _run(walk: Walk, steps: Sequence[Values], wanted: Sequence[str], chain: Chain) -> Iterator[Values]:
    values = ValueStore(RAM_BYTES)
    for step in steps:
        values.append(step)
    segments = list(walk.segments(0, walk.end))
    try:
        for place, segment in segments[:-1]:
            before, values = values, walk.step(segment, place, values, walk.original, RAM_BYTES, chain)
            before.close()
        for batch in run_over(segments[-1][1], values, walk.original, chain):
            yield {name: value for name, value in batch.items() if name in wanted}
    finally:
        values.close()


def _cache_of(model: ir.Model) -> Mapping[str, str]:
    """Outputs that are the next step's inputs: `past_key_values.0.key` from `present.0.key`."""
    names = [str(value.name) for value in model.graph.inputs]
    return {
        name: name.replace("past_key_values", "present")
        for name in names
        if name.startswith("past_key_values")
    }


def _feeds(model: ir.Model, chunk: Chunk) -> Values:
    """Ids, mask and cache; a chunk that continues another gets that one's cache as it runs.

    Until then zeros stand for it: graphs measure the cache of every layer before they use it.
    """
    ids = np.asarray(chunk.ids, np.int64)[None]
    feeds: Values = {INPUT_IDS: ids, ATTENTION_MASK: np.ones((1, chunk.past + ids.shape[1]), np.int64)}
    for value in model.graph.inputs:
        if value.name not in feeds:
            assert value.shape is not None
            heads, size = (int(str(value.shape[axis])) for axis in (1, 3))
            feeds[str(value.name)] = np.zeros((1, heads, chunk.past, size), np.float32)
    return feeds
