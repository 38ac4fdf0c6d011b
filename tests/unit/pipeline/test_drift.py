"""Distances from recorded outputs: what counts, and that nothing hides a NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgeq.bundle.golden import GoldenCase
from edgeq.errors import IntegrityError
from edgeq.pipeline.drift import Drift, case_drifts, drift_of, worst
from edgeq.types import Role, TensorSpec

EMBEDDING = TensorSpec("e", "float32", ("batch", 3), Role.SENTENCE_EMBEDDING)
HIDDEN = TensorSpec("h", "float32", ("batch", "sequence", 2), Role.LAST_HIDDEN_STATE)
SCORE = TensorSpec("s", "float32", ("batch", 1), Role.LOGITS)


def case(batch: int = 1, tokens: int = 3, positions: np.ndarray | None = None, pad: int = 0) -> GoldenCase:
    mask = np.ones((batch, tokens), np.int64)
    if pad:
        mask[:, -pad:] = 0
    feeds = {"input_ids": np.ones((batch, tokens), np.int64), "attention_mask": mask}
    return GoldenCase("c", (), feeds, {}, {}, positions)


def test_golden_values() -> None:
    recorded = np.array([[3.0, 4.0, 0.0]], np.float32)
    found = np.array([[3.0, 4.0, 5.0]], np.float32)
    drift = drift_of(EMBEDDING, case(), recorded, found)
    assert (drift.max_abs, drift.rms) == (5.0, 1.0)
    assert drift.cosine == pytest.approx(math.sqrt(0.5))


def test_nothing_moved() -> None:
    same = np.ones((2, 3), np.float32)
    drift = drift_of(EMBEDDING, case(2), same, same)
    assert (drift.max_abs, drift.rms) == (0.0, 0.0) and drift.cosine == pytest.approx(1.0)


def test_single_numbers_have_no_cosine() -> None:
    drift = drift_of(SCORE, case(), np.array([[2.0]], np.float32), np.array([[-2.0]], np.float32))
    assert (drift.cosine, drift.max_abs, drift.rms) == (1.0, 4.0, 2.0)


def test_padding_does_not_count() -> None:
    recorded, found = np.ones((1, 3, 2), np.float32), np.ones((1, 3, 2), np.float32)
    found[0, 2] = 99
    assert drift_of(HIDDEN, case(pad=1), recorded, found).max_abs == 0
    assert drift_of(HIDDEN, case(), recorded, found).max_abs == 98


def test_only_recorded_positions_are_compared() -> None:
    golden = case(tokens=4, positions=np.array([0, 3]), pad=1)
    whole = np.arange(8, dtype=np.float32).reshape(1, 4, 2)
    recorded = golden.kept(HIDDEN, whole)
    assert recorded.tolist() == [[[0, 1], [6, 7]]]
    # Position 3 is padding: it is recorded, and does not count.
    moved = whole.copy()
    moved[0, 1], moved[0, 3] = 50, 60
    found = case_drifts([HIDDEN], [golden], [{"h": recorded}], [{"h": moved}])
    assert found["h"][0].max_abs == 0
    moved[0, 0] = 5
    assert case_drifts([HIDDEN], [golden], [{"h": recorded}], [{"h": moved}])["h"][0].max_abs == 5


@pytest.mark.parametrize("first", [True, False])
def test_a_nan_in_one_case_is_the_worst_of_all(first: bool) -> None:
    good = np.ones((1, 3), np.float32)
    bad = np.array([[1.0, np.nan, 1.0]], np.float32)
    drifts = [drift_of(EMBEDDING, case(), good, found) for found in ((bad, good) if first else (good, bad))]
    assert all(math.isnan(value) for value in worst(drifts).metrics().values())


def test_squares_add_up_over_cases() -> None:
    together = worst([Drift(1.0, 0.9, 1.0, 4.0), Drift(2.0, 0.8, 0.0, 12.0)])
    assert (together.max_abs, together.cosine, together.rms) == (2.0, 0.8, 0.25)


def test_another_shape_is_a_damaged_case() -> None:
    with pytest.raises(IntegrityError, match=r"`e` of shape \[1, 3\], expected \[1, 2\]"):
        drift_of(EMBEDDING, case(), np.ones((1, 3), np.float32), np.ones((1, 2), np.float32))


def test_noise_cancels_in_the_mean_and_damage_does_not() -> None:
    recorded = np.ones((64, 3), np.float32)
    noise = np.random.default_rng(0).choice([-0.1, 0.1], recorded.shape).astype(np.float32)
    noisy, shifted = (drift_of(EMBEDDING, case(64), recorded, recorded + moved) for moved in (noise, 0.1))
    assert noisy.rms == pytest.approx(0.1, rel=1e-5) and shifted.rms == pytest.approx(0.1, rel=1e-5)
    assert shifted.mean == pytest.approx(0.1, rel=1e-5) and noisy.mean < 0.02


def test_means_of_cases_add_up() -> None:
    recorded = np.ones((4, 3), np.float32)
    found = recorded + np.arange(12, dtype=np.float32).reshape(4, 3)
    whole = drift_of(EMBEDDING, case(4), recorded, found)
    parts = [drift_of(EMBEDDING, case(2), recorded[half], found[half]) for half in (slice(2), slice(2, 4))]
    assert worst(parts).mean == pytest.approx(whole.mean)


def test_a_mean_of_span_logits_is_over_positions() -> None:
    starts = TensorSpec("s", "float32", ("batch", "sequence"), Role.START_LOGITS)
    rows = np.ones((2, 3), np.float32)
    drift = drift_of(starts, case(2, pad=1), rows, rows + np.array([[1, -1, 9], [2, 2, 9]], np.float32))
    assert (drift.rows, drift.mean) == (4, pytest.approx(1.0))
