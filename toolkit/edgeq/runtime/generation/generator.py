"""Text in, text out: tokenize, run the prompt, choose tokens until a stop token or a limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgeq.errors import DataError, IntegrityError, UnsupportedError, UsageError
from edgeq.onnx_runtime import DEFAULT_LEVEL, OptimizationLevel
from edgeq.processors.prompts import PromptTokenizer
from edgeq.processors.text import TOKENIZER_FILE
from edgeq.runtime.generation.answer import DEFAULT_MAX_TOKENS, Generation, StopReason
from edgeq.runtime.generation.chat import render_chat
from edgeq.runtime.generation.decoding import StreamDecoder
from edgeq.runtime.generation.genai import GenaiTokens
from edgeq.runtime.generation.llama_cpp import LlamaCppTokens
from edgeq.runtime.generation.sampling import Sampler, Sampling
from edgeq.runtime.generation.session import DecoderSession
from edgeq.runtime.generation.settings import GenerationSettings

if TYPE_CHECKING:
    from edgeq.bundle.reader import Bundle


class TokenStream(Protocol):
    """An engine: gives tokens one by one until it is closed."""

    def __call__(self, prompt_ids: Sequence[int], sampling: Sampling, capacity: int) -> Iterator[int]:
        """Tokens after a prompt; `capacity` tokens in all fit."""


class TextGenerator:
    """Generates text with a decoder.

    Args:
        tokens: the engine.
        tokenizer: of the model.
        settings: of the model.
    """

    def __init__(
        self,
        tokens: TokenStream,
        tokenizer: PromptTokenizer,
        settings: GenerationSettings,
    ) -> None:
        self.settings = settings
        self.tokenizer = tokenizer
        self._tokens = tokens

    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt a chat becomes by the model's template.

        Raises:
            UnsupportedError: it has none.
            DataError: it refuses these messages.
        """
        return render_chat(self.settings, messages)

    def encode(self, prompt: str, *, is_rendered: bool = False) -> list[int]:
        """Token ids of a prompt.

        Args:
            prompt: text.
            is_rendered: a chat template wrote it, special tokens included: none are added.

        Raises:
            DataError: the prompt is empty, not valid Unicode, longer than the context, or has a token that the model
                has no embedding for.
        """
        ids = self.tokenizer.encode(prompt, add_special_tokens=not is_rendered)
        if not prompt or not ids:
            raise DataError(
                "the prompt is empty, expected some text", hint='edgeq run BUNDLE --prompt "Once upon"'
            )
        if len(ids) >= self.settings.context_length:
            raise DataError(
                f"the prompt has {len(ids)} tokens; the model's context is {self.settings.context_length} tokens, "
                "prompt and answer together",
                hint=f"shorten the prompt to at most {self.settings.context_length - 1} tokens",
            )
        self.tokenizer.require_embeddings(ids, self.settings.vocabulary, "the prompt holds")
        return ids

    def generate(
        self,
        prompt: str,
        *,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        sampling: Sampling | None = None,
        is_rendered: bool = False,
        on_text: Callable[[str], None] = lambda _: None,
    ) -> Generation:
        """Generate until a stop token, `max_tokens` or the end of the context.

        Args:
            prompt: text.
            max_tokens: most tokens to generate.
            sampling: greedy when left out.
            is_rendered: a chat template wrote the prompt.
            on_text: told each piece of text as soon as it is certain.

        Raises:
            DataError: the prompt is empty, not valid Unicode, or longer than the context.
            UsageError: `max_tokens` is below 1.
        """
        if max_tokens < 1:
            raise UsageError(f"max tokens is {max_tokens}, expected at least 1", hint="--max-tokens 128")
        prompt_ids = self.encode(prompt, is_rendered=is_rendered)
        wanted, limit = len(prompt_ids) + max_tokens, self.settings.context_length
        at_limit = StopReason.MAX_TOKENS if wanted <= limit else StopReason.CONTEXT
        stream = self._tokens(prompt_ids, sampling or Sampling(), min(wanted, limit))
        return self._collect(stream, prompt_ids, at_limit, on_text)

    def _collect(
        self,
        stream: Iterator[int],
        prompt_ids: list[int],
        reason: StopReason,
        on_text: Callable[[str], None],
    ) -> Generation:
        decoder = StreamDecoder(self.tokenizer.decode, prompt_ids)
        pieces: list[str] = []
        found: list[int] = []

        def show(piece: str) -> None:
            if piece:
                pieces.append(piece)
                on_text(piece)

        started = first = time.perf_counter()
        for count, token in enumerate(stream):
            first = time.perf_counter() if count == 0 else first
            if token in self.settings.stop_ids:
                reason = StopReason.STOP_TOKEN
                break
            found.append(token)
            show(decoder.push(token))
        ended = time.perf_counter()
        show(decoder.finish())
        return Generation(
            "".join(pieces), tuple(found), len(prompt_ids), reason, first - started, ended - first
        )


@dataclass(frozen=True, slots=True)
class OnnxTokens:
    """Tokens from plain ONNX Runtime."""

    session: DecoderSession

    def __call__(self, prompt_ids: Sequence[int], sampling: Sampling, capacity: int) -> Iterator[int]:
        """Tokens after a prompt; `capacity` tokens in all fit."""
        sampler = Sampler(sampling)
        seen = list(prompt_ids)
        state = self.session.start(capacity)
        logits = self.session.prefill(state, prompt_ids)
        while True:
            token = sampler.next(logits, seen)
            yield token
            seen.append(token)
            if len(seen) >= capacity:
                return
            logits = self.session.feed(state, [token])[-1]


ENGINES: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime", "genai"),
    "llama.cpp": ("llama.cpp",),
}
"""By the runtime of a variant: what runs its file, its own first."""


def open_tokens(
    model: Path,
    runtime: str,
    settings: GenerationSettings,
    *,
    engine: str | None = None,
    threads: int | None = None,
    level: OptimizationLevel = DEFAULT_LEVEL,
) -> TokenStream:
    """The tokens of a model file.

    Args:
        model: the file of a variant.
        runtime: of the variant.
        settings: of the model.
        engine: one of `ENGINES[runtime]`; the first when left out.
        threads: None lets the engine choose.
        level: graph optimizations of ONNX Runtime.

    Raises:
        UsageError: there is no such engine, or it does not run such files.
        UnsupportedError: nothing here runs such files.
        MissingExtraError: the engine is not installed.
    """
    offered = ENGINES.get(runtime)
    if offered is None:
        raise UnsupportedError(f"`{model.name}` runs on {runtime}, which edgeq does not generate with")
    chosen = engine or offered[0]
    if chosen not in offered:
        known = {name for names in ENGINES.values() for name in names}
        message = f"engine `{chosen}` does not run files for {runtime}"
        raise UsageError(
            message if chosen in known else f"unknown engine `{chosen}`",
            hint=f"--engine {' or '.join(offered)}",
        )
    if chosen == "genai":
        return GenaiTokens(model.parent, threads=threads, level=level)
    if chosen == "llama.cpp":
        return LlamaCppTokens(model, threads=threads)
    session = DecoderSession(model, settings.cache, settings.context_length, level=level, threads=threads)
    return OnnxTokens(session)


def bundle_tokenizer(bundle: Bundle) -> PromptTokenizer:
    """The tokenizer of a language model's bundle.

    Raises:
        IntegrityError: it has none.
    """
    info = bundle.manifest.text_processor
    if info is None:
        raise IntegrityError(f"`{bundle.path}` has no tokenizer")
    return PromptTokenizer((bundle.file(info.path) / TOKENIZER_FILE).read_text(encoding="utf-8"))
