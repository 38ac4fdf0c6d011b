"""The knapsack's front against brute force, and what a sample can decide."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.quantize.bootstrap import Estimate, bootstrap, rows_needed
from edgeq.quantize.search import (
    Option,
    Unit,
    best_within,
    demotions,
    fill,
    first_accepted,
    front,
    hull,
    point_of,
)

UNITS = [
    Unit("a", (Option("4", 40, 1.0), Option("8", 80, 0.1), Option("16", 160, 0.0))),
    Unit("b", (Option("4", 10, 0.2), Option("8", 20, 0.01), Option("16", 40, 0.0))),
]


def test_points_rise_in_size_and_fall_in_loss():
    points = front(UNITS)
    assert [(p.size_bytes, round(p.loss, 4)) for p in points] == [
        (50, 1.2),
        (90, 0.3),
        (100, 0.11),
        (180, 0.01),
        (200, 0.0),
    ]


def test_an_option_that_two_others_beat_is_not_on_the_hull():
    options = [Option("4", 10, 1.0), Option("bad", 15, 0.9), Option("8", 20, 0.1), Option("worse", 30, 0.1)]
    assert [option.format for option in hull(options)] == ["4", "8"]
    kept = [Option("4", 10, 1.0), Option("5", 15, 0.3), Option("8", 20, 0.1)]
    assert hull(kept) == kept


def units_strategy():
    option = st.tuples(st.integers(1, 60), st.integers(0, 1000))
    unit = st.lists(option, min_size=1, max_size=4)
    return st.lists(unit, min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(units_strategy())
def test_no_combination_beats_a_front_point_of_its_size(raw):
    units = [
        Unit(str(i), tuple(Option(str(k), size, loss / 1000) for k, (size, loss) in enumerate(options)))
        for i, options in enumerate(raw)
    ]
    points = front(units)
    everything = [
        point_of(units, {unit.name: option.format for unit, option in zip(units, combination, strict=True)})
        for combination in product(*(unit.options for unit in units))
    ]
    for point in points:
        best = min(p.loss for p in everything if p.size_bytes <= point.size_bytes)
        assert point.loss <= best + 1e-9
    assert points[-1].loss == pytest.approx(min(p.loss for p in everything))
    assert points[0].size_bytes == min(p.size_bytes for p in everything)


def test_leftover_bytes_are_spent():
    points = front(UNITS)
    found = best_within(UNITS, points, 62)
    assert found is not None
    assert (found.size_bytes, found.formats) == (60, {"a": "4", "b": "8"})
    assert best_within(UNITS, points, 49) is None
    assert fill(UNITS, points[0], 50) == points[0]


def test_demotions_start_with_the_cheapest_loss():
    point = point_of(UNITS, {"a": "16", "b": "16"})
    first = demotions(UNITS, point)[0]
    assert first.formats == {"a": "16", "b": "8"} or first.formats == {"a": "8", "b": "16"}
    gains = [(point.size_bytes - p.size_bytes) / (p.loss - point.loss) for p in demotions(UNITS, point)]
    assert gains == sorted(gains, reverse=True)
    assert demotions(UNITS, front(UNITS)[0]) == []


def test_bisection_finds_the_smallest_accepted_point():
    points = front(UNITS)
    asked = []

    def accept(limit):
        def ask(point):
            asked.append(point)
            return point.loss <= limit

        return ask

    assert first_accepted(points, accept(0.11)) == 2
    assert len(asked) <= 4
    assert first_accepted(points, accept(2.0)) == 0
    assert first_accepted(points, accept(-1.0)) is None


def test_bounds_of_a_mean_match_its_standard_error():
    rows = np.random.default_rng(0).standard_normal(400)
    found = bootstrap(lambda picked: float(rows[picked].mean()), len(rows), seed=1)
    # One-sided 95 %: 1.645 standard errors of 1/20; 1000 resamples place it within about 8 %.
    assert found.value - found.low == pytest.approx(1.645 / 20, rel=0.15)
    assert found.high - found.value == pytest.approx(1.645 / 20, rel=0.15)
    assert found == bootstrap(lambda picked: float(rows[picked].mean()), len(rows), seed=1)
    assert found != bootstrap(lambda picked: float(rows[picked].mean()), len(rows), seed=2)


def test_constant_rows_have_no_spread_and_no_rows_are_an_error():
    assert bootstrap(lambda picked: 1.0, 5, seed=0) == Estimate(1.0, 1.0, 1.0, 5)
    with pytest.raises(ValueError, match="at least one row"):
        bootstrap(lambda picked: 1.0, 0, seed=0)


def test_rows_needed_grows_with_the_square_of_closeness():
    estimate = Estimate(0.995, 0.99, 1.0, 100)
    assert rows_needed(estimate, 0.985) == 25
    assert rows_needed(estimate, 0.994) == 2500
    assert rows_needed(estimate, 0.995) == 10**9
