"""What the headers of a language model's files say before any work: what is missing, damaged, left over."""

from __future__ import annotations

from pathlib import Path

from edgeq.exporters.causal_lm.facts import context_length, read_lm_facts
from edgeq.exporters.causal_lm.text import tokens_beyond
from edgeq.exporters.causal_lm.weights import SAFETENSORS, open_weights
from edgeq.exporters.checkpoint import check_weights, weight_files
from edgeq.exporters.decoder_parameters import skeleton
from edgeq.exporters.gptq_awq.folder import check_layers
from edgeq.exporters.language_model_facts import LanguageModelFacts
from edgeq.exporters.tokenizer import load_tokenizer


def check_language_headers(folder: Path, context: int | None) -> tuple[str, ...]:
    """Read the headers of a folder's weights and its tokenizer.

    Args:
        folder: of the checkpoint.
        context: tokens asked for; None is the model's own.

    Returns:
        Notices, the same that the export gives.

    Raises:
        ModelError: the export would fail on these files.
        ConfigError: `context` is longer than the model's.
    """
    facts = read_lm_facts(str(folder), folder).require_supported()
    context_length(facts.config, context)
    beyond = tokens_beyond(load_tokenizer(folder).get_vocab(), facts.config.get("vocab_size"))
    return (*facts.notices, *_check_weights(facts), *beyond)


def _check_weights(facts: LanguageModelFacts) -> tuple[str, ...]:
    folder = facts.folder
    if facts.is_text_part:
        # Its language model is written as a folder of its own before names can be compared.
        check_weights(folder)
        return ()
    if facts.quantized is not None:
        check_layers(folder)
        return ()
    if weight_files(folder)[0].name not in SAFETENSORS:
        # Pickled weights are copied before their names can be compared.
        return ()
    return open_weights(folder, skeleton(folder, folder)).notices
