"""Take a causal language model in: one graph with a KV cache, or the original alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.exporters.causal_lm.export import export_folder, notices_of, settings_of, source_of
from edgeq.exporters.causal_lm.exported_language_model import ExportedLanguageModel, Logits
from edgeq.exporters.causal_lm.facts import context_length
from edgeq.exporters.causal_lm.graph_io import INPUT_IDS
from edgeq.exporters.causal_lm.ordinary_folder import ordinary_folder
from edgeq.exporters.causal_lm.own_library import check_reference
from edgeq.exporters.causal_lm.weights import float_bytes
from edgeq.exporters.exported_model import Progress
from edgeq.exporters.extras import TORCH_EXPORT, require_modules
from edgeq.exporters.language_model_facts import LanguageModelFacts
from edgeq.exporters.tokenizer import load_tokenizer, text_preprocessor

if TYPE_CHECKING:
    from edgeq.exporters.causal_lm.original import OriginalLanguageModel


def load_language_model(
    model: str | Path,
    *,
    revision: str | None = None,
    context: int | None = None,
    road: str | None = None,
    on_progress: Progress | None = None,
) -> ExportedLanguageModel:
    """Export a causal language model.

    Args:
        model: a local Hugging Face folder or a Hub id.
        revision: commit, tag or branch on the Hub.
        context: most tokens of prompt and answer; the model's own limit when left out.
        road: `builder` or `torch`; by default the builder where it covers the model.
        on_progress: told each stage.

    Raises:
        ModelError: the model cannot be read, is not supported, or its graph does not match the original.
        ConfigError: `context` is longer than the model's.
        MissingExtraError: torch or transformers are not installed.
    """
    say = on_progress or (lambda _: None)
    require_modules(TORCH_EXPORT)
    with ordinary_folder(model, revision, say) as found:
        # One fused matrix cannot read its input in two orders; the traced graph keeps the three apart.
        exported = _load(found.facts, context, "torch" if found.is_torn else road, say)
        found.keep_for(exported.weights)
    return replace(exported, source=found.provenance(exported.source), packed=found.packed)


def _load(
    facts: LanguageModelFacts, context: int | None, road: str | None, say: Progress
) -> ExportedLanguageModel:
    """In this process, or in one of its own where the model is large."""
    from edgeq.exporters.causal_lm.own_process import load_in_own_process
    from edgeq.graph.streamed_tensor import HELD_BYTES

    if float_bytes(facts.folder) <= HELD_BYTES:
        return export_folder(facts, context, road, say)
    say("exporting the model in a process of its own")
    return load_in_own_process(facts, context, road)


def open_original(
    model: str | Path, *, revision: str | None = None, context: int | None = None
) -> OriginalLanguageModel:
    """A causal language model without a graph; its weights stay on disk.

    Args:
        model: a local Hugging Face folder, a Hub id, or a GGUF file.
        revision: commit, tag or branch on the Hub.
        context: most tokens of prompt and answer; the model's own limit when left out.

    Raises:
        ModelError: the model cannot be read, or is not supported.
        ConfigError: `context` is longer than the model's.
        MissingExtraError: torch or transformers are not installed.
    """
    require_modules(TORCH_EXPORT)
    with ordinary_folder(model, revision) as found:
        original = _original(found.facts, context)
        found.keep_for(original.weights)
    return replace(original, source=found.provenance(original.source))


def _original(facts: LanguageModelFacts, context: int | None) -> OriginalLanguageModel:
    from edgeq.exporters.causal_lm.original import OriginalLanguageModel
    from edgeq.exporters.causal_lm.streamed_forward import streamed_logits
    from edgeq.exporters.causal_lm.without_matrices import decoder_without_matrices
    from edgeq.graph.streamed_tensor import HELD_BYTES

    length = context_length(facts.config, context)
    tokenizer = load_tokenizer(facts.folder)
    model, weights = decoder_without_matrices(facts.folder)
    weights.check_finite()
    settings = settings_of(facts, model, tokenizer, length, shares_buffer=False)
    check_reference(
        facts.folder,
        weights,
        streamed_logits(model, weights),
        is_small=float_bytes(facts.folder) <= HELD_BYTES,
    )
    return OriginalLanguageModel(
        source=source_of(facts, model),
        preprocessor=text_preprocessor(tokenizer, max_length=length, input_names=(INPUT_IDS,)),
        settings=settings,
        weights=weights,
        model=model,
        notices=notices_of(facts, weights, tokenizer, settings),
    )


def load_original(model: str | Path, *, revision: str | None = None) -> Logits:
    """The original model, to compare with; its weights are read as it runs.

    Raises:
        ModelError: it cannot be loaded, or is no supported language model.
    """
    from edgeq.exporters.causal_lm.streamed_forward import streamed_logits
    from edgeq.exporters.causal_lm.without_matrices import decoder_without_matrices

    with ordinary_folder(model, revision) as found:
        original, weights = decoder_without_matrices(found.facts.folder)
        weights.check_finite()
        found.keep_for(weights)
    return streamed_logits(original, weights)
