"""GGUF files as models: config, tokenizer and weights taken out of one file, quantized weights without a change."""

from __future__ import annotations

from edgeq.exporters.gguf.facts import inspect_gguf
from edgeq.exporters.gguf.folder import unpack

__all__ = ["inspect_gguf", "unpack"]
