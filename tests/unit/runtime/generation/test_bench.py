import time

import pytest

from edgeq.errors import UsageError
from edgeq.runtime.generation.bench import check_lengths, onnx_engine, prompt_of, race
from edgeq.runtime.generation.settings import CacheShape


def engine(seconds_per_token):
    def tokens(prompt, sampling, capacity):
        for _ in range(capacity - len(prompt)):
            time.sleep(seconds_per_token)
            yield 1

    return tokens


def test_a_slower_engine_is_slower():
    found = race({"fast": engine(0.002), "slow": engine(0.02)}, [1, 2, 3], 3, rounds=2, baseline="fast")
    assert (found["fast"].ratio, found["fast"].rounds, found["fast"].generated_tokens) == (1, 2, 3)
    assert found["slow"].ratio < 0.5
    assert found["slow"].tokens_per_second < 1 / 0.02
    assert found["slow"].first_token_ms > 20


def test_a_real_session(counting_model):
    own = onnx_engine(counting_model, CacheShape(2, 1, 1), 64, threads=1)
    found = race({"own": own}, prompt_of(16, 12), 8, rounds=1, baseline="own")["own"]
    assert (found.prompt_tokens, found.generated_tokens) == (16, 8)
    assert found.tokens_per_second > 0


@pytest.mark.parametrize(("prompt", "new"), [(0, 4), (4, 0), (60, 4)])
def test_lengths_that_do_not_fit(prompt, new):
    with pytest.raises(UsageError, match="do not fit a context of 64"):
        check_lengths(prompt, new, 64)
    check_lengths(59, 4, 64)


def test_prompts_stay_in_the_vocabulary():
    assert set(prompt_of(100, 12)) <= set(range(12))
