"""GPTQ: the column loop against the textbook one, the damping ladder, fallbacks, refinement."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.errors import DataError
from edgeq.quantize.formats import Blocks
from edgeq.quantize.weight_only import gptq
from edgeq.quantize.weight_only.candidate import nearest, output_errors
from edgeq.quantize.weight_only.quantized_weight import LayerStats
from edgeq.quantize.weight_only.refine import descend, refine, refit_scales


def make(k=48, n=10, tokens=300, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(tokens, k)) @ (rng.normal(size=(k, k)) * rng.lognormal(0, 1, k))
    weight = rng.normal(0, 0.05, (k, n)).astype(np.float32)
    return weight, LayerStats((x**2).mean(0).astype(np.float32), tokens, x.T @ x)


def start_of(weight, spec):
    blocks = -(-weight.shape[0] // spec.block_size)
    scales = np.full((weight.shape[1], blocks), 0.02, np.float32)
    return nearest(weight, spec, scales, np.full_like(scales, spec.middle))


def textbook(weight, start, hessian, spec):
    """Optimal brain surgeon one channel at a time with explicit inverses: slow, and nothing to get wrong."""
    order = list(hessian.order)
    remaining = weight.astype(np.float64).copy()
    codes = np.zeros_like(remaining)
    while order:
        inverse = np.linalg.inv(hessian.damped[np.ix_(order, order)].astype(np.float64))
        i = order[0]
        scale, zero = start.parameters(i)
        codes[i] = np.clip(np.rint(remaining[i] / scale), -zero, spec.top - zero)
        error = (remaining[i] - codes[i] * scale) / inverse[0, 0]
        remaining[order] -= inverse[:, 0, None] * error
        order.pop(0)
    return codes


@pytest.mark.parametrize("columns", [128, 16])
def test_column_loop_equals_the_textbook(columns, monkeypatch):
    monkeypatch.setattr(gptq, "_COLUMNS", columns)
    spec = Blocks(4, 16)
    weight, stats = make()
    hessian = gptq.factorize(stats.gram)
    start = start_of(weight, spec)
    ours = gptq.feed_back(weight, start, hessian, spec).codes
    # float32 against float64: a value on a rounding border may fall the other way, and what follows with it.
    assert (ours != textbook(weight, start, hessian, spec)).mean() < 0.02
    assert (ours != start.codes).mean() > 0.1, "feedback changes codes"


def test_factor_inverts_the_damped_hessian():
    _, stats = make()
    hessian = gptq.factorize(stats.gram)
    permuted = hessian.damped[np.ix_(hessian.order, hessian.order)].astype(np.float64)
    product = hessian.factor.T.astype(np.float64) @ hessian.factor @ permuted
    # Condition number of a 1 % damped matrix is at most K * 100; float32 keeps 7 digits.
    np.testing.assert_allclose(product, np.eye(48), atol=48 * 100 * 2.0**-23)
    assert np.allclose(np.tril(hessian.factor, -1), 0)


def test_activation_order_visits_loud_channels_first():
    _, stats = make()
    diagonal = np.diag(stats.gram)[gptq.factorize(stats.gram).order]
    assert (np.diff(diagonal) <= 0).all()


def test_damping_ladder_climbs_where_a_step_fails():
    indefinite = np.eye(8)
    indefinite[0, 1] = indefinite[1, 0] = 1.1
    assert gptq.factorize(np.eye(8)).damping == gptq.DAMPING[0]
    assert gptq.factorize(indefinite).damping > gptq.DAMPING[0]
    indefinite[0, 1] = indefinite[1, 0] = 50.0
    assert gptq.factorize(indefinite) is None


def test_scale_refit_and_descent_never_raise_the_objective():
    spec = Blocks(4, 16)
    weight, stats = make()
    hessian = gptq.factorize(stats.gram).damped
    start = start_of(weight, spec)
    refitted = refit_scales(weight, start, hessian, spec)
    descended = descend(weight, refitted, hessian, spec)
    errors = [output_errors(weight, c, hessian) for c in (start, refitted, descended)]
    assert (errors[1] <= errors[0]).all()
    assert (errors[2] <= errors[1] * (1 + 1e-5)).all()
    assert errors[2].sum() < 0.9 * errors[0].sum()
    assert output_errors(weight, refine(weight, start, hessian, spec), hessian).sum() <= errors[2].sum() * (
        1 + 1e-5
    )


def test_scale_refit_is_the_least_squares_solution():
    """One block and H = I: the scale is <code, w> / <code, code>."""
    spec = Blocks(4, 16, scale_dtype="float32")
    weight, _ = make(16, 5)
    start = start_of(weight, spec)
    refitted = refit_scales(weight, start, np.eye(16, dtype=np.float32), spec)
    expected = (start.codes * weight).sum(0) / (start.codes**2).sum(0)
    np.testing.assert_allclose(refitted.scales[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: LayerStats(s.mean_square, s.tokens), "no X^T X"),
        (lambda s: LayerStats(s.mean_square, 95, s.gram), "95 calibration tokens for 48 inputs; at least 96"),
        (lambda s: LayerStats(s.mean_square, s.tokens, s.gram * np.nan), "NaN or infinite"),
        (lambda s: LayerStats(s.mean_square, s.tokens, s.gram + np.inf), "NaN or infinite"),
        (lambda s: LayerStats(s.mean_square * 0, s.tokens, s.gram * 0), "is zero"),
    ],
)
def test_falls_back_to_the_scale_search_and_says_why(change, reason):
    weight, stats = make()
    result = gptq.quantize(weight, Blocks(), change(stats))
    assert result.method == "scale_search"
    assert "scale_search instead of gptq" in result.notes[0]
    assert reason in result.notes[0]


def test_falls_back_to_rtn_without_usable_statistics():
    weight, stats = make()
    for useless in (None, LayerStats(stats.mean_square * np.nan, 500, stats.gram)):
        result = gptq.quantize(weight, Blocks(), useless)
        assert result.method == "rtn"
        assert result.notes[0].startswith("rtn instead of gptq")


def test_foreign_statistics_are_refused():
    weight, stats = make()
    with pytest.raises(DataError, match="48 inputs"):
        gptq.quantize(weight, Blocks(), LayerStats(stats.mean_square, 500, stats.gram[:9, :9]))


def test_dead_channels_keep_rounding_to_nearest():
    weight, stats = make()
    gram = stats.gram.copy()
    gram[7], gram[:, 7] = 0, 0
    spec = Blocks(4, 16)
    start = start_of(weight, spec)
    rounded = gptq.feed_back(weight, start, gptq.factorize(gram), spec)
    np.testing.assert_array_equal(rounded.codes[7], start.codes[7])


def test_outputs_in_parts_give_the_same(monkeypatch):
    weight, stats = make()
    whole = gptq.quantize(weight, Blocks(4, 16), stats)
    monkeypatch.setattr(gptq, "_OUTPUTS", 4)
    parts = gptq.quantize(weight, Blocks(4, 16), stats)
    # BLAS sums in another order for another width: codes on a border may differ.
    assert (whole.q != parts.q).mean() < 0.02


def test_cross_statistics_make_up_for_earlier_layers():
    """The inputs are off by what earlier layers lost: the layer's output comes closer to the original's."""
    rng = np.random.default_rng(1)
    weight, _ = make()
    original = rng.normal(size=(600, 48)) @ rng.normal(size=(48, 48))
    seen = original @ (np.eye(48) + 0.05 * rng.normal(size=(48, 48)))
    plain = LayerStats((seen**2).mean(0).astype(np.float32), 600, seen.T @ seen)
    paired = LayerStats(plain.mean_square, 600, plain.gram, seen.T @ original)

    def error(stats):
        return np.linalg.norm(
            seen @ gptq.quantize(weight, Blocks(4, 16), stats).dequantize() - original @ weight
        )

    assert error(paired) < 0.8 * error(plain)


def test_cross_statistics_of_equal_inputs_change_nothing():
    weight, stats = make()
    paired = LayerStats(stats.mean_square, stats.tokens, stats.gram, stats.gram)
    spec = Blocks(4, 16)
    # The target is W to float64 rounding: codes on a border may differ.
    assert (gptq.quantize(weight, spec, paired).q != gptq.quantize(weight, spec, stats).q).mean() < 0.01


def test_the_corrected_target_solves_the_damped_normal_equations(monkeypatch):
    weight, stats = make()
    rng = np.random.default_rng(2)
    cross = stats.gram @ (np.eye(48) + 0.01 * rng.normal(size=(48, 48)))
    shares = []
    for ridge in (0.0, gptq.RIDGE):
        paired = LayerStats(stats.mean_square, stats.tokens, stats.gram, cross)
        monkeypatch.setattr(gptq, "RIDGE", ridge)
        target = gptq.corrected_target(weight, paired).astype(np.float64)
        damped = stats.gram + ridge * np.diag(stats.gram).mean() * np.eye(48)
        left, right = damped @ (target - weight), (cross - stats.gram) @ weight
        # The target is rounded to float32, which the damped Gram matrix multiplies by up to its largest eigenvalue.
        allowed = 2.0**-24 * np.linalg.norm(damped, 2) * np.linalg.norm(target)
        assert np.linalg.norm(left - right) < allowed
        shares.append(np.linalg.norm(target - weight))
    assert shares[1] < shares[0], "damping holds the correction back"


def test_foreign_cross_statistics_are_refused():
    weight, stats = make()
    with pytest.raises(DataError, match="X\\^T R"):
        gptq.quantize(weight, Blocks(), LayerStats(stats.mean_square, 500, stats.gram, stats.gram[:4]))


def test_layers_that_share_an_input_wait_for_one_factorization(monkeypatch):
    weight, stats = make()
    calls = []
    factorize = gptq.factorize
    monkeypatch.setattr(gptq, "factorize", lambda gram: calls.append(len(gram)) or factorize(gram))
    own = [gptq.quantize(part, Blocks(4, 16), stats) for part in np.split(weight, 2, axis=1)]
    assert calls == [48]
    whole = gptq.quantize(weight, Blocks(4, 16), LayerStats(stats.mean_square, stats.tokens, stats.gram))
    assert calls == [48, 48], "other statistics, another factor"
    np.testing.assert_array_equal(np.concatenate([part.scales for part in own]), whole.scales)
