"""An exported decoder against the original: whole, in chunks and token by token, before anything is quantized."""

from __future__ import annotations

import numpy as np

from edgeq.errors import ModelError
from edgeq.exporters.causal_lm.exported_language_model import Logits
from edgeq.graph.component import Component
from edgeq.graph.streamed_tensor import is_too_large
from edgeq.quantize.segmented import run_sequences
from edgeq.quantize.segmented.sequences import Chunk, in_chunks
from edgeq.runtime.generation.session import DecoderSession
from edgeq.runtime.generation.settings import GenerationSettings
from edgeq.scratch import scratch_folder
from edgeq.types import Array, FloatArray

PROBE_TOKENS = 40
CHUNKS = (23, 1, 9, 1)
"""How the probe is fed the second time: a long chunk, single tokens, a chunk on a filled cache; the rest one by one."""
TOLERANCE = 2e-3
"""Of the largest logit: float32 sums in another order reach 1e-4 in deep models, a wrong position or mask 1e-1."""


def check_decoder(
    canonical: Component, settings: GenerationSettings, reference: Logits, architecture: str
) -> None:
    """Compare logits with the original's.

    Raises:
        ModelError: they differ, or the graph does not run.
    """
    length = min(PROBE_TOKENS, settings.context_length)
    ids = np.random.default_rng(0).integers(0, settings.vocabulary, length)
    expected = reference(ids[None])[0]
    whole, pieces = (_in_segments if is_too_large(canonical.model) else _in_a_session)(
        canonical, settings, ids
    )
    for found, how in ((whole, "in one go"), (pieces, "in pieces over the KV cache")):
        error = float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-6))
        if not error <= TOLERANCE:
            raise ModelError(
                f"the exported graph of `{architecture}` does not compute what the original does: run {how}, "
                f"logits differ by {error:.2g} of the largest, expected at most {TOLERANCE:g}",
                hint="this may be a bug of edgeq: please report the model's name",
            )


def _in_a_session(
    canonical: Component, settings: GenerationSettings, ids: Array
) -> tuple[FloatArray, FloatArray]:
    """Logits in one go and in pieces."""
    import onnx_ir as ir

    with scratch_folder("check") as folder:
        path = folder / "model.onnx"
        ir.save(canonical.model, path, external_data="model.onnx.data")
        session = DecoderSession(path, settings.cache, settings.context_length)
        return session.logits(ids), _in_pieces(session, ids)


def _in_segments(
    canonical: Component, settings: GenerationSettings, ids: Array
) -> tuple[FloatArray, FloatArray]:
    """The same of a graph too large for a session: some nodes at a time, all chunks through each."""
    chunks = [Chunk(ids), *in_chunks(ids, [*CHUNKS, *[1] * len(ids)])]
    whole, *pieces = (values["logits"][0] for values in run_sequences(canonical.model, chunks))
    return whole, np.concatenate(pieces)


def _in_pieces(session: DecoderSession, ids: Array) -> FloatArray:
    state = session.start(len(ids))
    parts, at = [], 0
    for size in (*CHUNKS, *[1] * len(ids)):
        if at < len(ids):
            parts.append(session.feed(state, ids[at : at + size]))
            at += size
    return np.concatenate(parts)
