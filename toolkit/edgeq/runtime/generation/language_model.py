"""A language model's bundle, ready to generate."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from edgeq.onnx_runtime import ordered_level
from edgeq.processors.prompts import PromptTokenizer
from edgeq.runtime.generation.answer import DEFAULT_MAX_TOKENS, Generation
from edgeq.runtime.generation.generator import TextGenerator, bundle_tokenizer, open_tokens
from edgeq.runtime.generation.sampling import Sampling
from edgeq.runtime.generation.settings import GENERATION_FILE, GenerationSettings
from edgeq.runtime.model import LoadedModel, opened, require_language_model

if TYPE_CHECKING:
    from edgeq.bundle.reader import Bundle


class LanguageModel(LoadedModel):
    """An open bundle that generates text.

    Args:
        bundle: opened and verified; closed with the model.
        engine: `onnxruntime`, `genai` (ONNX Runtime GenAI) or `llama.cpp`; the variant's own when left out.
        variant: its id; the first when left out.
        threads: None lets the engine choose.

    Raises:
        UnsupportedError: the bundle holds no language model.
        UsageError: there is no such engine.
        MissingExtraError: the engine is not installed.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        engine: str | None = None,
        variant: str | None = None,
        threads: int | None = None,
    ) -> None:
        require_language_model(bundle.manifest)
        settings = GenerationSettings.load(bundle.file(GENERATION_FILE))
        tokenizer = bundle_tokenizer(bundle)
        super().__init__(bundle, bundle.variant(variant) if variant else bundle.variants[0])
        tokens = open_tokens(
            bundle.model_path(self.variant),
            self.variant.runtime,
            settings,
            engine=engine,
            threads=threads,
            level=ordered_level(self.variant.requirements),
        )
        self.generator = TextGenerator(tokens, tokenizer, settings)

    @property
    def settings(self) -> GenerationSettings:
        """The bundle's `generation.json`: context, stop tokens, sampling defaults, chat template."""
        return self.generator.settings

    @property
    def tokenizer(self) -> PromptTokenizer:
        """Text to token ids and back."""
        return self.generator.tokenizer

    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt a chat becomes by the model's template; see `TextGenerator.chat_prompt`."""
        return self.generator.chat_prompt(messages)

    def generate(
        self,
        prompt: str,
        *,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        sampling: Sampling | None = None,
        is_rendered: bool = False,
        on_text: Callable[[str], None] = lambda _: None,
    ) -> Generation:
        """Generate until a stop token, `max_tokens` or the end of the context; see `TextGenerator.generate`."""
        return self.generator.generate(
            prompt, max_tokens=max_tokens, sampling=sampling, is_rendered=is_rendered, on_text=on_text
        )


def load_language_model(
    path: str | os.PathLike[str],
    *,
    engine: str | None = None,
    variant: str | None = None,
    force: bool = False,
    threads: int | None = None,
) -> LanguageModel:
    """Open and verify a bundle of a language model; one of another task is refused before its model is read.

    Args:
        path: a bundle folder or a `.edgeq` archive.
        engine: `onnxruntime`, `genai` (ONNX Runtime GenAI) or `llama.cpp`; the variant's own when left out.
        variant: its id; the first when left out.
        force: load it even if it failed its quality gate.
        threads: None lets the engine choose.

    Raises:
        UnsupportedError: the bundle holds no language model.
        UsageError: there is no such engine.
        IntegrityError: its files are not those of its manifest.
        GateError: it failed its quality gate.
        MissingExtraError: the engine is not installed.
    """

    def load(bundle: Bundle) -> LanguageModel:
        return LanguageModel(bundle, engine=engine, variant=variant, threads=threads)

    return opened(path, load, force=force)
