"""Latency of several sessions side by side: interleaved rounds, medians and ratios, because machines drift."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

WARMUP_RUNS = 2


@dataclass(frozen=True, slots=True)
class Timing:
    """Latency of one contender.

    Attributes:
        p50_ms: median over rounds.
        p95_ms: 95th percentile over rounds.
        ratio: median over rounds of this contender's latency over the baseline's in the same round.
        rounds: how many.
    """

    p50_ms: float
    p95_ms: float
    ratio: float
    rounds: int


def interleave(
    contenders: Mapping[str, Callable[[], object]], *, baseline: str, rounds: int = 15, budget_s: float = 10.0
) -> dict[str, Timing]:
    """Time contenders in turn, A B C A B C ..., and compare round by round.

    Args:
        contenders: a run of each; called with no arguments.
        baseline: the key ratios refer to.
        rounds: at most this many.
        budget_s: stop earlier (after at least 3 rounds) when this much time is spent.
    """
    for run in contenders.values():
        for _ in range(WARMUP_RUNS):
            run()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    started = time.perf_counter()
    for done in range(rounds):
        if done >= 3 and time.perf_counter() - started > budget_s:
            break
        for name, run in contenders.items():
            begin = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - begin) * 1e3)
    return {name: _timing(found, times[baseline]) for name, found in times.items()}


def _timing(found: list[float], base: list[float]) -> Timing:
    ordered = sorted(found)
    return Timing(
        p50_ms=statistics.median(found),
        p95_ms=ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        ratio=statistics.median(mine / theirs for mine, theirs in zip(found, base, strict=True)),
        rounds=len(found),
    )
