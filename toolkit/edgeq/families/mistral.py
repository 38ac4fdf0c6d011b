"""Mistral (Jiang et al., arXiv:2310.06825): Llama whose layers may see a window alone."""

from __future__ import annotations

from dataclasses import replace

from edgeq.families import llama

FAMILY = replace(
    llama.FAMILY,
    model_type="mistral",
    head="MistralForCausalLM",
    # llama.cpp runs it as Llama, so that a file does not say which of the two it was.
    gguf=replace(llama.FAMILY.gguf, is_read=False),
    genai_type="mistral",
)
