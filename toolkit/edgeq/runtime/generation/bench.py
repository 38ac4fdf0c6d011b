"""Speed of language models side by side: time to first token, tokens per second for reading and for writing."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgeq.errors import UsageError
from edgeq.runtime.generation.engine_process import Answer

Engine = Callable[[Sequence[int], int], Answer]
"""Reads a prompt, writes one token and so many more."""


@dataclass(frozen=True, slots=True)
class GenerationSpeed:
    """One contender; medians over rounds.

    Attributes:
        prompt_tokens: of the prompt that was read.
        generated_tokens: written after the first one.
        first_token_ms: time to the first token: reading the prompt.
        prompt_tokens_per_second: reading.
        tokens_per_second: writing.
        cpu_ms_per_token: processor time of writing, all threads together; other work on the machine hardly changes it.
        prompt_ratio: of reading, to the baseline in the same round; above 1 is faster.
        ratio: of writing, likewise.
        cpu_ratio: of processor time for writing; above 1 takes less.
        rounds: how many.
    """

    prompt_tokens: int
    generated_tokens: int
    first_token_ms: float
    prompt_tokens_per_second: float
    tokens_per_second: float
    cpu_ms_per_token: float
    prompt_ratio: float
    ratio: float
    cpu_ratio: float
    rounds: int


def check_lengths(prompt_tokens: int, new_tokens: int, context: int) -> None:
    """Refuse lengths that do not fit.

    Raises:
        UsageError: they do not.
    """
    if prompt_tokens < 1 or new_tokens < 1 or prompt_tokens + new_tokens + 1 > context:
        raise UsageError(
            f"a prompt of {prompt_tokens} and an answer of {new_tokens} tokens do not fit a context of {context}",
            hint="--prompt-tokens and --new-tokens set other lengths",
        )


def prompt_of(tokens: int, vocabulary: int) -> list[int]:
    """A fixed sequence of token ids: what they are does not matter to speed."""
    return [(7 * index + 3) % vocabulary for index in range(tokens)]


def race(
    contenders: Mapping[str, Engine],
    prompt: Sequence[int],
    new_tokens: int,
    *,
    rounds: int,
    baseline: str,
    on_round: Callable[[], None] = lambda: None,
) -> tuple[dict[str, GenerationSpeed], dict[str, Answer]]:
    """Time contenders in turn and compare round by round; each round begins one further, and the first warms up.

    Returns:
        Speed by contender, and its last answer.
    """
    answers: dict[str, list[Answer]] = {name: [] for name in contenders}
    names = list(contenders)
    for round_ in range(rounds + 1):
        # What runs after what matters: caches, and turns that the scheduler owes.
        first = round_ % len(names)
        for name in (*names[first:], *names[:first]):
            answers[name].append(contenders[name](prompt, new_tokens))
        on_round()
    timed = {name: found[1:] for name, found in answers.items()}
    speed = {name: _speed(found, timed[baseline], len(prompt)) for name, found in timed.items()}
    return speed, {name: found[-1] for name, found in answers.items()}


def _speed(found: Sequence[Answer], base: Sequence[Answer], prompt: int) -> GenerationSpeed:
    first = statistics.median(answer.first_s for answer in found)
    return GenerationSpeed(
        prompt_tokens=prompt,
        generated_tokens=min(_written(answer) for answer in found),
        first_token_ms=1e3 * first,
        prompt_tokens_per_second=prompt / first,
        tokens_per_second=1 / statistics.median(_per_token(answer) for answer in found),
        cpu_ms_per_token=1e3 * statistics.median(_cpu_per_token(answer) for answer in found),
        prompt_ratio=_ratio(found, base, lambda answer: answer.first_s),
        ratio=_ratio(found, base, _per_token),
        cpu_ratio=_ratio(found, base, _cpu_per_token),
        rounds=len(found),
    )


def _ratio(found: Sequence[Answer], base: Sequence[Answer], cost: Callable[[Answer], float]) -> float:
    return statistics.median(
        cost(theirs) / max(cost(mine), 1e-12) for mine, theirs in zip(found, base, strict=True)
    )


def _written(answer: Answer) -> int:
    return max(len(answer.tokens) - 1, 1)


def _per_token(answer: Answer) -> float:
    return answer.rest_s / _written(answer)


def _cpu_per_token(answer: Answer) -> float:
    return answer.rest_cpu_s / _written(answer)
