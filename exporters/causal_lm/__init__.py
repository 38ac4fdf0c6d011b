"""Causal language models: one graph with a KV cache, through GenAI's model builder or traced by torch.

Families are those of `edgeq.families`.
"""

from __future__ import annotations

from edgeq.exporters.causal_lm.exported_language_model import ExportedLanguageModel
from edgeq.exporters.causal_lm.facts import asks_for_generation, inspect_language_model, read_lm_facts
from edgeq.exporters.causal_lm.loading import load_language_model, load_original, open_original
from edgeq.exporters.language_model_facts import LanguageModelFacts

__all__ = [
    "ExportedLanguageModel",
    "LanguageModelFacts",
    "asks_for_generation",
    "inspect_language_model",
    "load_language_model",
    "load_original",
    "open_original",
    "read_lm_facts",
]
