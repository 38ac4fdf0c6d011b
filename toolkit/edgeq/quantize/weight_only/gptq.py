"""GPTQ: round channel by channel, feeding each channel's error into those not yet rounded.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (2023).
Scales come from the E[x^2]-weighted search and stay with their block ("static groups"), so channels can be
visited by falling activation without a `g_idx`. The result is refined (`refine.py`), and per output channel
the best on the calibration objective of RTN, scale search and GPTQ is kept.

With `stats.cross` the layer's target is not W but the weight that, on the inputs the quantized model gives it,
comes closest to the original layer's output on the original inputs (the asymmetric calibration of Li et al.,
"GPTAQ", 2025, here in closed form).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import numpy as np

from edgeq.errors import DataError
from edgeq.numerics import block_count
from edgeq.quantize.formats import Blocks
from edgeq.quantize.weight_only import rtn, scale_search
from edgeq.quantize.weight_only.blocks import fit_parameters
from edgeq.quantize.weight_only.candidate import Candidate, assemble, keep_best, nearest
from edgeq.quantize.weight_only.quantized_weight import (
    LayerStats,
    QuantizedWeight,
    checked_importance,
    checked_weight,
    stored_spec,
)
from edgeq.quantize.weight_only.refine import refine
from edgeq.types import Array, FloatArray

DAMPING = (0.1, 0.3, 1.0)
"""Shares of the mean diagonal added to H, in turn, until its Cholesky factor exists.

More than the paper's 1 %, because calibration text is narrower than what a model meets afterwards: chosen by the
cosine of all-MiniLM-L6-v2 on sentences of another kind than those that calibrated it, which 5 % leaves 0.001 lower.
"""
RIDGE = 0.5
"""The same for the correction of what earlier layers lost: undamped it fits noise, and costs more than it repairs."""
MIN_TOKENS_PER_CHANNEL = 2
"""With fewer calibration tokens per input channel H is nearly rank-deficient, and GPTQ fits noise."""

SHARED_WIDTH = 4096
"""Inputs of a layer up to which factors are kept for the next layer that reads them; those of wider ones are large."""

# By input, for as long as its statistics are held: q, k and v wait for one factorization.
_FACTORS: WeakKeyDictionary[LayerStats, Hessian | None] = WeakKeyDictionary()
_RIDGED: WeakKeyDictionary[LayerStats, Array] = WeakKeyDictionary()
_COLUMNS = 128
# Output channels solved together: bounds the working set to about 6 arrays of [K, 4096], and of wide layers the
# systems [blocks, blocks] that refine their scales to 128 MB.
_OUTPUTS = 4096
_SYSTEM_BYTES = 128 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Hessian:
    """The layer's quadratic error model.

    Attributes:
        gram: X^T X, `[K, K]`, scaled to mean diagonal 1.
        damped: `gram` with the damping that made it positive definite.
        order: channels by falling activation, `[K]`.
        factor: upper triangular U with U^T U = inverse of `damped` in that order.
        damping: the share of the mean diagonal that was added.
    """

    gram: FloatArray
    damped: FloatArray
    order: Array
    factor: FloatArray
    damping: float


def quantize(weight: Array, spec: Blocks, stats: LayerStats | None = None) -> QuantizedWeight:
    """Quantize `weight [K, N]` for the least output error on the calibration inputs behind `stats.gram`.

    Never worse than RTN or the scale search on that objective. Where GPTQ cannot work (no Gram matrix, a NaN,
    infinite or all-zero one, fewer than 2 tokens per input channel) the scale search, or RTN where its
    statistics are unusable too, is returned and `notes` says why.

    Raises:
        ModelError: the weight is not a finite matrix.
        DataError: the statistics belong to another layer.
    """
    values = checked_weight(weight)
    reason = why_not(stats, values.shape[0])
    hessian = None if reason or stats is None else factor_of(stats)
    if hessian is None or stats is None:
        return _fall_back(values, spec, stats, reason or "X^T X is not positive definite at any damping")
    spec = stored_spec(values, spec.fitted(values.shape[0]))
    importance = checked_importance(stats, values.shape[0])
    target = values if stats.cross is None else corrected_target(values, stats)
    parts = []
    step = _outputs_together(values.shape[0], spec)
    for start in range(0, values.shape[1], step):
        part = slice(start, start + step)
        own = np.ascontiguousarray(values[:, part])
        aim = own if target is values else np.ascontiguousarray(target[:, part])
        parts.append(_solve(own, aim, spec, importance, hessian))
    return assemble("gptq", parts, spec)


def _outputs_together(in_features: int, spec: Blocks) -> int:
    blocks = block_count(in_features, spec.block_size)
    return max(1, min(_OUTPUTS, _SYSTEM_BYTES // (8 * blocks**2)))


def corrected_target(weight: FloatArray, stats: LayerStats) -> FloatArray:
    """The weight `[K, N]` whose output on X comes closest to the original's on R: W + H^-1 (X^T R - X^T X) W.

    H is X^T X plus `RIDGE`.

    Raises:
        DataError: X^T R belongs to another layer, or is not finite; or X^T X is no Gram matrix.
    """
    from scipy.linalg import cho_solve

    assert stats.gram is not None and stats.cross is not None
    if stats.cross.shape != stats.gram.shape or not np.isfinite(stats.cross).all():
        raise DataError(f"X^T R has shape {list(stats.cross.shape)} or values that are not finite")
    moved = np.subtract(stats.cross, stats.gram, dtype=np.float64) @ weight
    solution = cho_solve((_ridged(stats), True), moved, overwrite_b=True, check_finite=False)
    return np.asarray(weight + solution, np.float32)


def _ridged(stats: LayerStats) -> Array:
    """Lower Cholesky factor of X^T X plus `RIDGE`, once for the layers that read an input."""
    from scipy.linalg.lapack import dpotrf

    if stats in _RIDGED:
        return _RIDGED[stats]
    # In Fortran's order, which LAPACK works in in place; the matrix is symmetric.
    system = np.array(stats.gram, np.float64, order="F")
    system[np.diag_indices(len(system))] += RIDGE * np.diag(system).mean()
    factor, failed = dpotrf(system, lower=1, overwrite_a=1)
    if failed:
        raise DataError("X^T X of a layer's input is not positive definite")
    found: Array = factor
    if len(found) <= SHARED_WIDTH:
        _RIDGED[stats] = found
    return found


def factor_of(stats: LayerStats) -> Hessian | None:
    """`factorize` of an input's X^T X, once for the layers that read it; None without one."""
    if stats in _FACTORS:
        return _FACTORS[stats]
    found = None if stats.gram is None else factorize(stats.gram)
    if stats.gram is None or len(stats.gram) <= SHARED_WIDTH:
        _FACTORS[stats] = found
    return found


def factorize(gram: Array) -> Hessian | None:
    """Damp X^T X `[K, K]` just enough for a Cholesky factor; None where no step of the ladder gives one."""
    from scipy.linalg.lapack import dpotrf, dtrtri

    exact = np.array(gram, np.float64)
    exact /= np.diag(exact).mean()
    order = np.argsort(-np.diag(exact), kind="stable")
    diagonal = np.diag_indices(len(exact))
    for damping in DAMPING:
        # H = M M^T with M upper triangular, from the Cholesky factor of H read backwards: then U = M^-1.
        # Matrices are in Fortran's order, in which LAPACK works in place: of wide layers each is large.
        backwards = np.asfortranarray(exact[np.ix_(order[::-1], order[::-1])].T)
        backwards[diagonal] += damping
        lower, failed = dpotrf(backwards, lower=1, overwrite_a=1)
        if failed:
            continue
        factor, failed = dtrtri(np.asfortranarray(lower[::-1, ::-1]), overwrite_c=True)
        del backwards, lower
        if not failed and np.isfinite(factor).all():
            factor = np.asarray(factor, np.float32)
            undamped = np.asarray(exact, np.float32)
            damped = undamped.copy()
            damped[diagonal] = exact[diagonal] + damping
            return Hessian(undamped, damped, order, factor, damping)
    return None


def feed_back(weight: FloatArray, start: Candidate, hessian: Hessian, spec: Blocks) -> Candidate:
    """Codes for `weight [K, N]` under the parameters of `start`, by GPTQ's column loop."""
    codes = np.empty_like(weight)

    def quantize_channel(channel: int, values: FloatArray) -> FloatArray:
        scale, zero = start.parameters(channel)
        codes[channel] = np.clip(np.rint(values / scale), -zero, spec.top - zero)
        return np.asarray(codes[channel] * scale)

    round_channels(weight, hessian, quantize_channel)
    return replace(start, codes=codes)


def round_channels(
    weight: FloatArray, hessian: Hessian, quantize_channel: Callable[[int, FloatArray], FloatArray]
) -> None:
    """GPTQ's loop: input channels in the order of `hessian`, the error of each fed into those not yet rounded.

    Args:
        weight: `[K, N]`.
        hessian: of the layer's input.
        quantize_channel: given a channel and its values `[N]` with the errors so far, keeps their codes and returns
            the values that these stand for.
    """
    order, factor = hessian.order, hessian.factor
    remaining = weight[order]
    errors = np.empty((_COLUMNS, weight.shape[1]), np.float32)
    for begin in range(0, len(order), _COLUMNS):
        end = min(begin + _COLUMNS, len(order))
        for i in range(begin, end):
            error = (remaining[i] - quantize_channel(order[i], remaining[i])) / factor[i, i]
            remaining[i + 1 : end] -= factor[i, i + 1 : end, None] * error
            errors[i - begin] = error
        remaining[end:] -= factor[begin:end, end:].T @ errors[: end - begin]


def _solve(
    weight: FloatArray, target: FloatArray, spec: Blocks, importance: FloatArray, hessian: Hessian
) -> Candidate:
    candidates = [
        nearest(weight, spec, *fit_parameters(weight, spec, fit, importance))
        for fit in (rtn.fit, scale_search.fit)
    ]
    start = candidates[-1]
    if target is not weight:
        start = nearest(target, spec, *fit_parameters(target, spec, scale_search.fit, importance))
    rounded = feed_back(target, start, hessian, spec)
    candidates += [rounded, refine(target, rounded, hessian.damped, spec)]
    return keep_best(target, candidates, hessian.gram)


def why_not(
    stats: LayerStats | None, in_features: int, tokens_per_channel: float = MIN_TOKENS_PER_CHANNEL
) -> str | None:
    """Why GPTQ cannot run on these statistics; None where it can.

    Args:
        stats: of the layer's input.
        in_features: K.
        tokens_per_channel: calibration tokens needed for each.

    Raises:
        DataError: the statistics belong to another layer.
    """
    if stats is None or stats.gram is None:
        return "no X^T X was collected"
    if stats.gram.shape != (in_features, in_features):
        shape = list(stats.gram.shape)
        raise DataError(f"X^T X has shape {shape} for a weight with {in_features} inputs")
    if not np.isfinite(stats.gram).all() or not np.isfinite(stats.mean_square).all():
        return "X^T X is NaN or infinite"
    if not np.diag(stats.gram).any():
        return "every calibration input of this layer is zero"
    needed = math.ceil(tokens_per_channel * in_features)
    if stats.tokens < needed:
        return f"{stats.tokens} calibration tokens for {in_features} inputs; at least {needed} are needed"
    return None


def _fall_back(weight: FloatArray, spec: Blocks, stats: LayerStats | None, reason: str) -> QuantizedWeight:
    usable = stats is not None and bool(np.isfinite(stats.mean_square).all())
    result = scale_search.quantize(weight, spec, stats) if usable else rtn.quantize(weight, spec)
    return replace(result, notes=(f"{result.method} instead of gptq: {reason}",))
