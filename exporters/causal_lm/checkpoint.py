"""The original model of whatever the user names, as a function of token ids."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.exporters.causal_lm.base import LanguageModelFacts, Logits

if TYPE_CHECKING:
    from edgeq.exporters.causal_lm.weights import DecoderWeights
    from edgeq.exporters.packed.folder import UnpackedFolder


def load_original(model: str | Path, *, revision: str | None = None) -> Logits:
    """The original model, to compare with; its weights are read as it runs.

    Raises:
        ModelError: it cannot be loaded, or is no supported language model.
    """
    from edgeq.exporters.causal_lm.facts import inspect_language_model
    from edgeq.exporters.causal_lm.hollow import hollow_decoder
    from edgeq.exporters.causal_lm.streamed_forward import streamed_logits
    from edgeq.exporters.gguf import inspect_gguf, unpack
    from edgeq.exporters.source import fetch, is_gguf_file, local_folder
    from edgeq.scratch import ScratchFolder

    def run(folder: Path) -> tuple[Logits, DecoderWeights]:
        original, weights = hollow_decoder(folder)
        weights.check_finite()
        return streamed_logits(original, weights), weights

    if is_gguf_file(model):
        path = Path(model).expanduser()
        inspect_gguf(path).require_supported()
        with ScratchFolder("gguf") as scratch:
            logits, weights = run(unpack(path, scratch.path).folder)
            scratch.keep_for(weights)
        return logits

    facts = inspect_language_model(model, revision=revision).require_supported()
    is_local = local_folder(model) is not None
    folder = facts.folder if is_local else fetch(str(model), revision, config_only=False)
    if facts.is_unpacked:
        with ScratchFolder("packed") as scratch:
            logits, weights = run(unpack_folder(replace(facts, folder=folder), scratch.path).folder)
            scratch.keep_for(weights)
        return logits
    return run(folder)[0]


def unpack_folder(facts: LanguageModelFacts, folder: Path) -> UnpackedFolder:
    """Write the ordinary folder of a checkpoint that is none: a quantized one, or one of images and text.

    Raises:
        EdgeqError: see `packed.folder.unpack` and `text_part.unpack_text_part`.
    """
    from edgeq.exporters.causal_lm.text_part import unpack_text_part
    from edgeq.exporters.packed.folder import unpack

    return (unpack_text_part if facts.is_text_part else unpack)(facts.folder, folder)
