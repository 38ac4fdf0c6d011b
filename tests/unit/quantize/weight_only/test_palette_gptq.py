"""GPTQ over lookup tables: never worse than k-means on the calibration objective, and why it may not run."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.errors import ConfigError, DataError
from edgeq.quantize import formats
from edgeq.quantize.weight_only import gptq
from edgeq.quantize.weight_only.gptq import corrected_target, factorize
from edgeq.quantize.weight_only.palette import Palette, palettize
from edgeq.quantize.weight_only.palette_gptq import feed_back, output_errors, quantize
from edgeq.quantize.weight_only.quantized_weight import LayerStats

ONE_TABLE = formats.Palette(4, formats.PER_CHANNEL)


def make(seed=0, k=48, n=12, tokens=300):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(tokens, k)) @ (rng.normal(size=(k, k)) * rng.lognormal(0, 1, k))
    weight = rng.normal(0, 0.05, (k, n)).astype(np.float32)
    return weight, LayerStats((x**2).mean(0).astype(np.float32), tokens, x.T @ x)


def with_cross(stats, seed=5, spread=0.05):
    rng = np.random.default_rng(seed)
    k = len(stats.gram)
    cross = stats.gram @ (np.eye(k) + spread * rng.normal(size=(k, k)))
    return LayerStats(stats.mean_square, stats.tokens, stats.gram, cross)


def plain(weight, bits, stats, group=None):
    return palettize(np.ascontiguousarray(weight.T), bits, group_rows=group, importance=stats.mean_square)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("group", [None, 3])
@pytest.mark.parametrize("bits", [4, 6])
@pytest.mark.parametrize("shift", [0, 0.05, 0.5])
def test_never_worse_than_k_means_per_table(seed, group, bits, shift):
    weight, stats = make(seed)
    stats = with_cross(stats, seed, shift) if shift else stats
    target = corrected_target(weight, stats) if shift else weight
    gram = factorize(stats.gram).gram
    found, notes = quantize(weight, formats.Palette(bits, group or -1), stats)
    before = plain(weight, bits, stats, group)
    ours, theirs = (
        output_errors(target, palette, gram).reshape(len(found.luts), -1).sum(1)
        for palette in (found, before)
    )
    assert notes == ()
    # The errors are sums of K^2 products in float32.
    assert (ours <= theirs * (1 + 1e-5)).all()
    assert ours.sum() < 0.9 * theirs.sum(), "feedback pays on correlated inputs"
    assert (np.diff(found.luts, axis=1) >= 0).all() and found.indices.max() < 2**bits


def test_feedback_alone_may_be_worse_where_it_aims_at_other_inputs():
    """The negative twin: the choice, not the loop, is what keeps the promise."""
    weight, stats = make()
    _, other = make(seed=9)
    start = plain(weight, 4, stats)
    misled = Palette(feed_back(weight, start, factorize(other.gram)), start.luts)
    gram = factorize(stats.gram).gram
    assert (output_errors(weight, misled, gram) > output_errors(weight, start, gram)).any()


def test_uncorrelated_inputs_leave_the_nearest_entries():
    weight, _ = make()
    stats = LayerStats(np.ones(48, np.float32), 300, 300 * np.eye(48))
    found, _ = quantize(weight, ONE_TABLE, stats)
    np.testing.assert_array_equal(found.indices, plain(weight, 4, stats).indices)


def textbook(weight, palette, hessian):
    """Optimal brain surgeon one channel at a time with explicit inverses."""
    order = list(hessian.order)
    remaining = weight.astype(np.float64).copy()
    indices = np.zeros(weight.shape, np.uint8)
    table = np.repeat(palette.luts, weight.shape[1] // len(palette.luts), axis=0).astype(np.float64)
    while order:
        inverse = np.linalg.inv(hessian.damped[np.ix_(order, order)].astype(np.float64))
        i = order[0]
        indices[i] = np.abs(table - remaining[i][:, None]).argmin(1)
        error = (remaining[i] - np.take_along_axis(table, indices[i][:, None], 1)[:, 0]) / inverse[0, 0]
        remaining[order] -= inverse[:, 0, None] * error
        order.pop(0)
    return indices.T


@pytest.mark.parametrize("columns", [128, 16])
@pytest.mark.parametrize("group", [None, 4])
def test_column_loop_equals_the_textbook(columns, group, monkeypatch):
    monkeypatch.setattr(gptq, "_COLUMNS", columns)
    weight, stats = make()
    hessian = factorize(stats.gram)
    start = plain(weight, 4, stats, group)
    ours = feed_back(weight, start, hessian)
    # float32 against float64: a value on a border may fall the other way, and what follows with it.
    assert (ours != textbook(weight, start, hessian)).mean() < 0.02
    assert (ours != start.indices).mean() > 0.1, "feedback changes entries"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: None, "no X^T X"),
        (lambda s: LayerStats(s.mean_square, s.tokens), "no X^T X"),
        (lambda s: LayerStats(s.mean_square, 95, s.gram), "95 calibration tokens for 48 inputs"),
        (lambda s: LayerStats(s.mean_square * np.nan, s.tokens, s.gram), "NaN or infinite"),
        (lambda s: LayerStats(s.mean_square * 0, s.tokens, s.gram * 0), "is zero"),
    ],
)
def test_falls_back_to_k_means_and_says_why(change, reason):
    weight, stats = make()
    found, (note,) = quantize(weight, ONE_TABLE, change(stats))
    assert note.startswith("kmeans instead of gptq") and reason in note
    assert np.isfinite(found.luts).all() and len(np.unique(found.indices)) == 16


def test_foreign_statistics_and_groups_that_do_not_divide_are_refused():
    weight, stats = make()
    with pytest.raises(DataError, match="48 inputs"):
        quantize(weight, ONE_TABLE, LayerStats(stats.mean_square, 500, stats.gram[:9, :9]))
    with pytest.raises(ConfigError, match="groups of 5"):
        quantize(weight, formats.Palette(4, 5), stats)
