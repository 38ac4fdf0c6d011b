"""What an exporter returns: the canonical graph, its preprocessor, and a way to run the original."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgeq.graph.canonical import CanonicalModel
from edgeq.runtime.text import TextPreprocessor
from edgeq.types import Feeds, Outputs, SourceInfo


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """A model taken in from the Hugging Face world.

    Attributes:
        canonical: the graph every target lowers.
        source: provenance, with a SHA-256 of every file that was read.
        preprocessor: tokenization as the bundle will do it, without torch or transformers.
        reference: runs the original model on the same feeds as the canonical graph's inputs
            (`input_ids`, `attention_mask`, ... int64 `[batch, sequence]`) and returns outputs by the same names.
    """

    canonical: CanonicalModel
    source: SourceInfo
    preprocessor: TextPreprocessor
    reference: Callable[[Feeds], Outputs]
