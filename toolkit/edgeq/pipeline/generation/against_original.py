"""The live comparison of a language model: predictions on running text, and greedy answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.calibration import load_samples
from edgeq.errors import ModelError
from edgeq.exporters.causal_lm import load_original, open_original
from edgeq.pipeline.generation.data import judged_windows, texts_of
from edgeq.pipeline.validation.request import LIVE_SAMPLES
from edgeq.runtime.perplexity import Logits, Window, agreement_length, compare_on, greedy
from edgeq.types import ONNX_RUNTIME

if TYPE_CHECKING:
    from edgeq.bundle.manifest import Variant
    from edgeq.exporters.causal_lm.original import OriginalLanguageModel
    from edgeq.pipeline.validation.request import ValidationRequest
    from edgeq.processors.prompts import PromptTokenizer
    from edgeq.progress import Progress
    from edgeq.runtime.generation.settings import GenerationSettings

GREEDY_PROMPTS = 4
GREEDY_PROMPT_TOKENS = 16
GREEDY_TOKENS = 32


@dataclass(frozen=True, slots=True)
class LiveText:
    """The original model and text to compare on.

    Attributes:
        reference: the original's predictions.
        original: its tensors, where a file is made of them; None where graphs are validated.
        settings: of the bundle.
        windows: tokens whose predictions are compared.
        prompts: token ids that both answer.
        source: where the text comes from, for people.
    """

    reference: Logits
    original: OriginalLanguageModel | None
    settings: GenerationSettings
    windows: tuple[Window, ...]
    prompts: tuple[tuple[int, ...], ...]
    source: str

    @property
    def samples(self) -> int:
        """Windows and prompts that `compare` runs, for a progress bar."""
        return len(self.windows) + len(self.prompts)

    def compare(self, logits: Logits, advance: Callable[[int], None]) -> tuple[dict[str, float], str]:
        """Metrics of some predictions against the original's, and how they were found, for people."""
        found = compare_on(self.reference, logits, self.windows, lambda: advance(1))
        lengths = []
        for ids in self.prompts:
            lengths.append(agreement_length(self._answer(self.reference, ids), self._answer(logits, ids)))
            advance(1)
        found["greedy_agreement_mean"] = float(np.mean(lengths))
        length = len(self.windows[0].ids)
        return found, (
            f"{int(found['n'])} tokens of {self.source}, windows of {length} tokens every {max(1, length // 2)}, "
            f"greedy answers of {GREEDY_TOKENS} tokens to {len(lengths)} prompts"
        )

    def _answer(self, logits: Logits, ids: Sequence[int]) -> list[int]:
        tokens = min(GREEDY_TOKENS, self.settings.context_length - len(ids))
        return greedy(logits, ids, tokens, self.settings.stop_ids)


def open_live(
    variants: Sequence[Variant],
    settings: GenerationSettings,
    tokenizer: PromptTokenizer,
    request: ValidationRequest,
    progress: Progress,
) -> LiveText | None:
    """Read the text, then load the original, so that bad data cost no time; None where the user named no original.

    Raises:
        EdgeqError: the text or the original cannot be used.
    """
    if request.against is None:
        return None
    data = load_samples(request.data, column=request.data_column, count=LIVE_SAMPLES, seed=request.seed)
    texts = texts_of(data.samples)
    windows = judged_windows(tokenizer, texts, settings.context_length, settings.vocabulary)
    most = min(GREEDY_PROMPT_TOKENS, settings.context_length // 2)
    prompts = tuple(tuple(tokenizer.encode(text)[:most]) for text in texts[:GREEDY_PROMPTS])
    with progress.stage("loading the original"):
        reference, original = _original(request.against, variants)
    _require_same_vocabulary(reference, settings.vocabulary, request.against)
    return LiveText(reference, original, settings, windows, prompts, data.source)


def _original(model: str, variants: Sequence[Variant]) -> tuple[Logits, OriginalLanguageModel | None]:
    """Its predictions, and its tensors where a file that no graph runs is simulated by them."""
    if all(variant.runtime == ONNX_RUNTIME for variant in variants):
        run = load_original(model)
        return lambda ids: run(ids[None])[0], None
    original = open_original(model)
    return lambda ids: original.reference(ids[None])[0], original


def _require_same_vocabulary(reference: Logits, size: int, model: str) -> None:
    found = reference(np.zeros(1, np.int64)).shape[-1]
    if found != size:
        raise ModelError(
            f"`{model}` predicts one of {found} tokens, the bundle one of {size}: it is another model",
            hint="--against takes the model the bundle was made from (edgeq inspect names it)",
        )
