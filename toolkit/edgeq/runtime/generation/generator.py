"""Text in, text out: tokenize, run the prompt, choose tokens until a stop token or a limit."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from edgeq.errors import DataError, IntegrityError, UnsupportedError, UsageError
from edgeq.onnx_runtime import DEFAULT_LEVEL, OptimizationLevel, ordered_level
from edgeq.runtime.generation.chat import render_chat
from edgeq.runtime.generation.decoding import StreamDecoder
from edgeq.runtime.generation.sampling import Sampler, Sampling
from edgeq.runtime.generation.session import DecoderSession
from edgeq.runtime.generation.settings import GENERATION_FILE, GenerationSettings
from edgeq.runtime.generation.tokenizer import PromptTokenizer
from edgeq.runtime.text import TOKENIZER_FILE
from edgeq.types import Task

if TYPE_CHECKING:
    from edgeq.bundle.reader import Bundle

DEFAULT_MAX_TOKENS = 128


class StopReason(StrEnum):
    """Why an answer ended."""

    STOP_TOKEN = "stop-token"
    MAX_TOKENS = "max-tokens"
    CONTEXT = "context-full"


@dataclass(frozen=True, slots=True)
class Generation:
    """An answer.

    Attributes:
        text: what was generated, without the prompt and special tokens.
        token_ids: generated tokens, the stop token left out.
        prompt_tokens: tokens of the prompt.
        stop_reason: why it ended.
        prompt_seconds: time to the first token: running the prompt.
        seconds: time of the tokens after it.
    """

    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    stop_reason: StopReason
    prompt_seconds: float = field(compare=False)
    seconds: float = field(compare=False)

    @property
    def prompt_tokens_per_second(self) -> float:
        """Speed of reading."""
        return self.prompt_tokens / max(self.prompt_seconds, 1e-9)

    @property
    def tokens_per_second(self) -> float:
        """Speed of writing, the first token (which the prompt pays for) left out."""
        steps = len(self.token_ids) - (self.stop_reason is not StopReason.STOP_TOKEN)
        return steps / self.seconds if steps > 0 and self.seconds > 0 else 0.0


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
        close: called by `close`.
    """

    def __init__(
        self,
        tokens: TokenStream,
        tokenizer: PromptTokenizer,
        settings: GenerationSettings,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings = settings
        self.tokenizer = tokenizer
        self._tokens = tokens
        self._close = close

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release what opening an archive unpacked."""
        self._close()

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


def open_generator(
    path: str | os.PathLike[str],
    *,
    engine: str | None = None,
    variant: str | None = None,
    force: bool = False,
    threads: int | None = None,
) -> TextGenerator:
    """Open and verify a bundle of a language model.

    Args:
        path: a bundle folder or a `.edgeq` archive.
        engine: `onnxruntime`, `genai` (ONNX Runtime GenAI) or `llama.cpp`; the variant's own when left out.
        variant: its id; the first when left out.
        force: load it even if it failed its quality gate.
        threads: intra-op threads.

    Raises:
        UnsupportedError: the bundle holds no language model.
        UsageError: there is no such engine.
        IntegrityError: its files are not those of its manifest.
        MissingExtraError: the engine is not installed.
    """
    from edgeq.bundle.reader import open_bundle

    bundle = open_bundle(Path(path), force=force)
    try:
        return generator_of(bundle, engine=engine, variant=variant, threads=threads)
    except BaseException:
        bundle.close()
        raise


def generator_of(
    bundle: Bundle, *, engine: str | None = None, variant: str | None = None, threads: int | None = None
) -> TextGenerator:
    """A generator over an open bundle, which closes with it; see `open_generator`."""
    require_language_model(bundle)
    settings = GenerationSettings.load(bundle.file(GENERATION_FILE))
    tokenizer = bundle_tokenizer(bundle)
    chosen = bundle.variant(variant) if variant else bundle.variants[0]
    tokens = open_tokens(
        bundle.model_path(chosen),
        chosen.runtime,
        settings,
        engine=engine,
        threads=threads,
        level=ordered_level(chosen.requirements),
    )
    return TextGenerator(tokens, tokenizer, settings, bundle.close)


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
        from edgeq.runtime.generation.genai import GenaiTokens

        return GenaiTokens(model.parent, threads=threads, level=level)
    if chosen == "llama.cpp":
        from edgeq.runtime.generation.llama_cpp import LlamaCppTokens

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


def require_language_model(bundle: Bundle) -> None:
    """Refuse bundles of other tasks.

    Raises:
        UnsupportedError: the bundle holds no language model.
    """
    task = bundle.manifest.source.task
    if task is not Task.TEXT_GENERATION:
        raise UnsupportedError(
            f"`{bundle.manifest.name}` is a {task} model, it does not generate text",
            hint="edgeq run BUNDLE --text ...",
        )
