"""Engines race in turn; ratios are to the baseline in the same round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from edgeq.errors import UsageError
from edgeq.runtime.generation.bench import Engine, check_lengths, prompt_of, race
from edgeq.runtime.generation.engine_process import ONNX_RUNTIME, Answer, EngineProcess, EngineSpec
from edgeq.runtime.generation.settings import CacheShape


def engine(seconds: Callable[[int], float], log: list[str], name: str) -> Engine:
    """Takes `seconds(round)` a token to write, ten times that to read."""

    def answer(prompt: Sequence[int], new_tokens: int) -> Answer:
        each = seconds(log.count(name))
        log.append(name)
        return Answer(10 * each, new_tokens * each, 2 * new_tokens * each, tuple(range(new_tokens + 1)))

    return answer


def test_contenders_take_turns_and_are_compared_round_by_round() -> None:
    """The machine gets slower from the third round on, which ratios do not see; the first round is left out."""
    log: list[str] = []
    drift = [9.0, 1.0, 1.0, 2.0, 2.0, 2.0]
    contenders = {
        "base": engine(lambda n: 0.001 * drift[n], log, "base"),
        "other": engine(lambda n: 0.004 * drift[n], log, "other"),
    }
    found, last = race(contenders, [1, 2, 3], 8, rounds=5, baseline="base")
    assert log == ["base", "other", "other", "base"] * 3
    base, other = found["base"], found["other"]
    assert (base.ratio, base.prompt_ratio, base.cpu_ratio) == (1, 1, 1)
    assert other.ratio == pytest.approx(0.25) and other.cpu_ratio == pytest.approx(0.25)
    assert base.tokens_per_second == pytest.approx(500) and other.tokens_per_second == pytest.approx(125)
    assert other.cpu_ms_per_token == pytest.approx(16)
    assert other.first_token_ms == pytest.approx(80) and other.prompt_tokens_per_second == pytest.approx(37.5)
    assert (base.rounds, base.prompt_tokens, base.generated_tokens) == (5, 3, 8)
    assert len(last["other"].tokens) == 9


def test_a_real_session_in_a_process_of_its_own(counting_model: Path) -> None:
    spec = EngineSpec(ONNX_RUNTIME, counting_model, 1, CacheShape(2, 1, 1), 64, 12)
    with EngineProcess(spec) as process:
        assert (process.context, process.vocabulary) == (64, 12)
        answer = process([3, 5], 4)
        # Token 5 after one other: (2 * 5 + 1) mod 12, and so on.
        assert answer.tokens == (11, 0, 3, 10, 1)
        assert answer.first_s > 0 and answer.rest_s > 0
        assert answer.kv_bytes_per_token == 2 * 2 * 4
        assert answer.peak_bytes > 2**20


@pytest.mark.parametrize(("prompt", "new"), [(0, 4), (4, 0), (60, 4)])
def test_lengths_that_do_not_fit(prompt: int, new: int) -> None:
    with pytest.raises(UsageError, match="do not fit a context of 64"):
        check_lengths(prompt, new, 64)
    check_lengths(59, 4, 64)


def test_prompts_stay_in_the_vocabulary() -> None:
    assert set(prompt_of(100, 12)) <= set(range(12))
