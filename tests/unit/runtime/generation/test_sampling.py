import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.errors import ModelError, UsageError
from edgeq.runtime.generation.sampling import Sampler, Sampling, truncated_probabilities
from edgeq.runtime.generation.settings import SamplingDefaults

LOGITS = np.log(np.array([0.5, 0.2, 0.2, 0.1], np.float32))


def draw(sampling, count=200, logits=LOGITS):
    sampler = Sampler(sampling)
    return [sampler.next(logits, []) for _ in range(count)]


def test_greedy_takes_the_likeliest():
    assert draw(Sampling(), 5) == [0] * 5


def test_a_seed_repeats_and_another_differs():
    assert draw(Sampling(1.0, seed=3)) == draw(Sampling(1.0, seed=3))
    assert draw(Sampling(1.0, seed=3)) != draw(Sampling(1.0, seed=4))


def test_frequencies_are_the_probabilities():
    found = np.bincount(draw(Sampling(1.0), 4000), minlength=4) / 4000
    # Four standard errors of a share of one half over 4000 draws.
    np.testing.assert_allclose(found, [0.5, 0.2, 0.2, 0.1], atol=4 * 0.5 / np.sqrt(4000))


def test_temperature_sharpens():
    cold = truncated_probabilities(LOGITS.astype(np.float64), Sampling(0.5))
    # Squares of the probabilities, normalized.
    np.testing.assert_allclose(cold, np.array([25, 4, 4, 1]) / 34, rtol=1e-6)


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(1.0, top_k=1), [1, 0, 0, 0]),
        (Sampling(1.0, top_k=3), [5 / 9, 2 / 9, 2 / 9, 0]),
        (Sampling(1.0, top_p=0.5), [1, 0, 0, 0]),
        (Sampling(1.0, top_p=0.51), [5 / 7, 2 / 7, 0, 0]),
        (Sampling(1.0, top_p=0.75), [5 / 9, 2 / 9, 2 / 9, 0]),
        (Sampling(1.0, top_p=1e-9), [1, 0, 0, 0]),
        (Sampling(1.0), [0.5, 0.2, 0.2, 0.1]),
    ],
)
def test_cuts(sampling, expected):
    np.testing.assert_allclose(
        truncated_probabilities(LOGITS.astype(np.float64), sampling), expected, rtol=1e-6
    )


def test_repetition_penalty_lowers_what_was_there():
    logits = np.array([2.0, 1.5, -1.0], np.float32)
    assert Sampler(Sampling(repetition_penalty=2.0)).next(logits, [0]) == 1
    assert Sampler(Sampling(repetition_penalty=2.0)).next(logits, [0, 1]) == 0
    assert Sampler(Sampling(repetition_penalty=1.0)).next(logits, [0]) == 0


@given(
    st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=20),
    st.floats(0.05, 5),
    st.floats(0.01, 1),
    st.integers(0, 25),
    st.integers(0, 99),
)
def test_any_settings_give_a_distribution_and_a_token_of_it(logits, temperature, top_p, top_k, seed):
    sampling = Sampling(temperature, top_p, top_k, seed=seed)
    probabilities = truncated_probabilities(np.array(logits), sampling)
    assert probabilities.sum() == pytest.approx(1)
    token = Sampler(sampling).next(np.array(logits, np.float32), [])
    assert probabilities[token] > 0
    assert probabilities[int(np.argmax(logits))] > 0


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"repetition_penalty": 0.0},
        {"seed": -1},
    ],
)
def test_settings_out_of_range(settings):
    with pytest.raises(UsageError, match="out of range"):
        Sampling(**settings)


def test_logits_that_are_not_finite():
    with pytest.raises(ModelError, match="NaN"):
        Sampler(Sampling()).next(np.array([1.0, np.nan], np.float32), [])


def test_the_models_own_defaults():
    assert Sampling.of_model(SamplingDefaults(True, 0.7, 0.8, 20, 1.05), seed=5) == Sampling(
        0.7, 0.8, 20, 1.05, 5
    )
    assert Sampling.of_model(SamplingDefaults(False, 0.7)).is_greedy
