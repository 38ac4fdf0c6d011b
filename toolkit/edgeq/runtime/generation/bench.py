"""Speed and memory of language models side by side: time to first token, tokens per second, growth of the cache."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.errors import UsageError
from edgeq.runtime.generation.generator import OnnxTokens, TokenStream, require_language_model
from edgeq.runtime.generation.sampling import Sampling
from edgeq.runtime.generation.session import DecoderSession
from edgeq.runtime.generation.settings import GENERATION_FILE, CacheShape, GenerationSettings

if TYPE_CHECKING:
    from edgeq.bundle.reader import Bundle


@dataclass(frozen=True, slots=True)
class GenerationSpeed:
    """One contender; medians over rounds.

    Attributes:
        prompt_tokens: of the prompt that was read.
        generated_tokens: written after the first one.
        first_token_ms: time to the first token: reading the prompt.
        prompt_tokens_per_second: reading.
        tokens_per_second: writing.
        ratio: of writing, to the baseline in the same round; above 1 is faster.
        rounds: how many.
    """

    prompt_tokens: int
    generated_tokens: int
    first_token_ms: float
    prompt_tokens_per_second: float
    tokens_per_second: float
    ratio: float
    rounds: int


@dataclass(frozen=True, slots=True)
class LanguageBench:
    """What `bench_language_model` found.

    Attributes:
        speed: by contender, the bundle's variant first.
        rss_mb: growth of peak memory to load, read 128 tokens and write 8, in a process of its own.
        load_ms: time to open a session.
        kv_bytes_per_token: growth of the cache.
        kv_mb_full: the cache of a full context.
    """

    speed: Mapping[str, GenerationSpeed]
    rss_mb: float
    load_ms: float
    kv_bytes_per_token: int
    kv_mb_full: float


def bench_language_model(
    bundle: Bundle,
    *,
    variant: str | None = None,
    against: Mapping[str, TokenStream] | None = None,
    prompt_tokens: int = 128,
    new_tokens: int = 64,
    rounds: int = 5,
    threads: int | None = None,
    with_genai: bool = False,
) -> LanguageBench:
    """Measure a bundle's decoder, interleaved with other engines on the same token ids.

    Args:
        bundle: opened.
        variant: its id; the first when left out.
        against: other engines by name, such as `onnx_engine` of another model.
        prompt_tokens: length of the prompt; token ids are a fixed sequence.
        new_tokens: tokens written after the first.
        rounds: of all contenders in turn.
        threads: intra-op threads of the bundle's own session.
        with_genai: add ONNX Runtime GenAI on the same files, as `genai`.

    Raises:
        UnsupportedError: the bundle holds no language model.
        UsageError: prompt and answer do not fit the context.
    """
    from edgeq.runtime.generation.footprint import measure_generation_bytes

    require_language_model(bundle)
    settings = GenerationSettings.load(bundle.file(GENERATION_FILE))
    check_lengths(prompt_tokens, new_tokens, settings.context_length)
    chosen = bundle.variant(variant) if variant else bundle.variants[0]
    model = bundle.file(chosen.model)
    started = time.perf_counter()
    own = onnx_engine(model, settings.cache, settings.context_length, threads)
    load_ms = 1e3 * (time.perf_counter() - started)
    contenders: dict[str, TokenStream] = {chosen.id: own, **(against or {})}
    if with_genai:
        from edgeq.runtime.generation.genai import GenaiTokens

        contenders["genai"] = GenaiTokens(model.parent)
    prompt = prompt_of(prompt_tokens, settings.vocabulary)
    speed = race(contenders, prompt, new_tokens, rounds=rounds, baseline=chosen.id)
    per_token = settings.cache.bytes_per_token
    rss = measure_generation_bytes(model, settings.cache, settings.context_length)
    return LanguageBench(speed, rss / 2**20, load_ms, per_token, per_token * settings.context_length / 2**20)


def check_lengths(prompt_tokens: int, new_tokens: int, context: int) -> None:
    """Refuse lengths that do not fit.

    Raises:
        UsageError: they do not.
    """
    if prompt_tokens < 1 or new_tokens < 1 or prompt_tokens + new_tokens + 1 > context:
        raise UsageError(
            f"a prompt of {prompt_tokens} and an answer of {new_tokens} tokens do not fit a context of {context}"
        )


def onnx_engine(
    model: Path, cache: CacheShape, context_length: int, threads: int | None = None
) -> TokenStream:
    """Plain ONNX Runtime on any decoder graph."""
    return OnnxTokens(DecoderSession(model, cache, context_length, threads=threads))


def prompt_of(tokens: int, vocabulary: int) -> list[int]:
    """A fixed sequence of token ids: what they are does not matter to speed."""
    return [(7 * index + 3) % vocabulary for index in range(tokens)]


def race(
    contenders: Mapping[str, TokenStream],
    prompt: Sequence[int],
    new_tokens: int,
    *,
    rounds: int,
    baseline: str,
) -> dict[str, GenerationSpeed]:
    """Time contenders in turn, A B A B ..., and compare round by round; the first round warms up."""
    times: dict[str, list[tuple[float, float, int]]] = {name: [] for name in contenders}
    for round_ in range(rounds + 1):
        for name, engine in contenders.items():
            found = _time_once(engine, prompt, new_tokens)
            if round_ > 0:
                times[name].append(found)
    base = [seconds / count for _, seconds, count in times[baseline]]
    return {name: _speed(found, base, len(prompt)) for name, found in times.items()}


def _time_once(engine: TokenStream, prompt: Sequence[int], new_tokens: int) -> tuple[float, float, int]:
    """Seconds to the first token, seconds for the others, and how many those are; stop tokens do not stop."""
    started = time.perf_counter()
    stream = engine(prompt, Sampling(), len(prompt) + new_tokens + 1)
    next(stream)
    first = time.perf_counter()
    count = sum(1 for _ in stream)
    return first - started, time.perf_counter() - first, max(count, 1)


def _speed(found: Sequence[tuple[float, float, int]], base: Sequence[float], prompt: int) -> GenerationSpeed:
    first = statistics.median(first for first, _, _ in found)
    per_token = [seconds / count for _, seconds, count in found]
    ratios = [theirs / mine for mine, theirs in zip(per_token, base, strict=True)]
    return GenerationSpeed(
        prompt_tokens=prompt,
        generated_tokens=min(count for _, _, count in found),
        first_token_ms=1e3 * first,
        prompt_tokens_per_second=prompt / first,
        tokens_per_second=1 / statistics.median(per_token),
        ratio=statistics.median(ratios),
        rounds=len(found),
    )
