"""An existing ONNX file of a text encoder, with its tokenizer beside it."""

from __future__ import annotations

from pathlib import Path

from edgeq.errors import ModelError
from edgeq.exporters.base import ExportedModel, ModelFacts, Progress


def inspect_onnx(path: Path, task: str | None) -> ModelFacts:
    """Facts about an ONNX file."""
    raise ModelError(f"`{path}`: ONNX files are not taken yet")


def load_onnx(facts: ModelFacts, seq_len: int | None, say: Progress) -> ExportedModel:
    """Take an ONNX file in."""
    raise ModelError(f"`{facts.folder}`: ONNX files are not taken yet")
