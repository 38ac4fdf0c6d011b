"""What the exporter of causal language models returns: one graph with a KV cache, and what generating needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from edgeq.exporters.exported_model import Exported
from edgeq.text_inputs import INPUT_IDS
from edgeq.types import Array, Feeds, FloatArray, Outputs

if TYPE_CHECKING:
    from edgeq.exporters.causal_lm.weights import DecoderWeights
    from edgeq.quantize.checkpoint_codes import PackedWeights
    from edgeq.runtime.generation.settings import GenerationSettings

Logits: TypeAlias = Callable[[Array], FloatArray]
"""The original model: token ids `[batch, sequence]` int64 to logits `[batch, sequence, vocabulary]`."""


def _nothing() -> None:
    """The original in this process is held as long as it is wanted."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExportedLanguageModel(Exported):
    """A causal language model taken in.

    Its graph has the inputs `input_ids [batch, sequence]`, `attention_mask [batch, total]` and
    `past_key_values.N.key/value [batch, heads, past, size]`, and the outputs `logits` and `present.N.key/value`.

    Attributes:
        settings: context length, stop tokens, defaults, chat template, cache.
        reference: the original's logits.
        genai_config: `genai_config.json` of ONNX Runtime GenAI for this graph.
        tokenizer_config: `tokenizer_config.json` beside it.
        graph_source: which exporter made the graph, for the model card: `genai-builder` or `torch`.
        weights: what the graph refers to. Files made for this export go when it does.
        packed: weights that came quantized with the checkpoint; None for a float checkpoint.
        rest: gives back what the original holds in memory; the next run of `reference` gets it again.
    """

    settings: GenerationSettings
    reference: Logits
    genai_config: Mapping[str, Any]
    tokenizer_config: Mapping[str, Any]
    graph_source: str
    weights: DecoderWeights
    packed: PackedWeights | None = None
    rest: Callable[[], None] = _nothing

    def run(self, feeds: Feeds) -> Outputs:
        """The original's logits for inputs with an empty cache."""
        return {"logits": self.reference(feeds[INPUT_IDS])}
