import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.errors import DataError
from edgeq.runtime.perplexity import (
    LanguageComparison,
    agreement_length,
    clustered_error,
    compare_on,
    greedy,
    negative_log_likelihood,
    perplexity,
    sliding_windows,
)


@given(st.integers(2, 90), st.integers(2, 20), st.data())
def test_every_token_but_the_first_is_scored_once_with_enough_context(count, length, data):
    stride = data.draw(st.integers(1, length - 1))
    ids = np.arange(count)
    windows = sliding_windows(ids, length, stride)
    scored = np.concatenate([window.ids[window.first_scored :] for window in windows])
    np.testing.assert_array_equal(scored, ids[1:])
    for window in windows[1:]:
        assert len(window.ids) <= length
        assert window.first_scored >= length - stride


def test_windows_by_hand():
    found = [(window.ids.tolist(), window.first_scored) for window in sliding_windows(range(7), 4, 2)]
    assert found == [([0, 1, 2, 3], 1), ([2, 3, 4, 5], 2), ([4, 5, 6], 2)]


def test_too_short_or_wrong():
    with pytest.raises(DataError, match="1 tokens"):
        sliding_windows([3], 4, 2)
    with pytest.raises(ValueError, match="stride 4"):
        sliding_windows(range(9), 4, 4)


def test_perplexity_of_a_uniform_model_is_the_vocabulary():
    assert perplexity(
        lambda ids: np.zeros((len(ids), 7), np.float32), sliding_windows(range(6), 4, 2)
    ) == pytest.approx(7)


def test_negative_log_likelihood_by_hand():
    logits = np.log(np.array([[0.25, 0.75], [0.5, 0.5]], np.float32))
    np.testing.assert_allclose(negative_log_likelihood(logits, [0, 1]), [np.log(4), np.log(2)], rtol=1e-6)


def repeating(ids):
    """Says with 90 % that the same token comes again, of 4."""
    return np.log(np.where(np.eye(4)[ids] > 0, 0.9, 0.1 / 3)).astype(np.float32)


def uniform(ids):
    return np.zeros((len(ids), 4), np.float32)


def test_comparison_by_hand():
    ids = np.zeros(9, np.int64)
    found = compare_on(repeating, uniform, sliding_windows(ids, 4, 2))
    divergence = 0.9 * np.log(0.9 * 4) + 0.1 * np.log(0.1 / 3 * 4)
    assert found["n"] == 8
    assert found["kl_mean"] == pytest.approx(divergence, rel=1e-6)
    assert found["kl_p99"] == pytest.approx(divergence, rel=1e-6)
    assert found["perplexity"] == pytest.approx(4)
    assert found["perplexity_original"] == pytest.approx(1 / 0.9)
    assert found["delta_p_rms"] == pytest.approx(0.9 - 1 / 4, rel=1e-6)
    # Every row has the same divergence: the mean has no error but that of float32 logits.
    assert found["kl_se"] < 1e-7


def test_standard_error_counts_stretches_and_not_tokens():
    values = np.repeat([0.0, 1.0, 2.0], 4)
    by_stretch = clustered_error(values, [4, 8, 12])
    assert by_stretch == pytest.approx(np.std([0, 1, 2], ddof=1) / np.sqrt(3))
    assert clustered_error(values, [12]) == pytest.approx(values.std(ddof=1) / np.sqrt(12))
    assert clustered_error(values, [12]) < by_stretch
    assert clustered_error(values, range(1, 13)) == pytest.approx(clustered_error(values, [12]))


def test_a_model_equals_itself():
    found = compare_on(repeating, repeating, sliding_windows([0, 1, 1, 2, 3], 4, 2))
    assert (found["kl_mean"], found["top1_agreement"]) == (0, 1)
    assert found["perplexity"] == found["perplexity_original"]


def test_nothing_to_compare():
    with pytest.raises(DataError, match="no text"):
        compare_on(repeating, repeating, [])
    with pytest.raises(ValueError, match="nothing was compared"):
        LanguageComparison().metrics()


def test_greedy_and_agreement():
    assert greedy(repeating, [1, 2], 3) == [2, 2, 2]
    assert greedy(repeating, [1, 2], 3, stop_ids=(2,)) == [2]
    assert agreement_length([1, 2, 3], [1, 2, 4]) == 2
    assert agreement_length([1, 2], [1, 2, 3]) == 2
    assert agreement_length([], [1]) == 0
