"""MIL operators that compute: element by element, products, reductions, normalization.

Arguments carry MIL's parameter names; a parameter that is missing here is refused by the machine.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.types import Array

Operator = Callable[..., "Array | tuple[Array, ...]"]


@functools.cache
def _erf_table() -> tuple[Array, Array, float]:
    """Values and slopes of erf on a grid over [0, 6]."""
    step = 1 / 512
    grid = np.arange(0, 6 + step, step)
    return np.array([math.erf(x) for x in grid]), 2 / math.sqrt(math.pi) * np.exp(-(grid**2)), step


def erf(x: Array) -> Array:
    """The error function to 1e-11, by Taylor expansion around the nearest point of a table.

    Derivatives of erf are its slope times Hermite polynomials; with |h| <= 1/1024 the fourth term is
    below 1e-12.
    """
    values, slopes, step = _erf_table()
    size = np.minimum(np.abs(x.astype(np.float64)), 6.0)
    index = np.rint(size / step).astype(np.int64)
    near = index * step
    h = size - near
    series = h * (1 - h * near + h * h * (2 * near * near - 1) / 3)
    return np.asarray(np.sign(x) * (values[index] + slopes[index] * series), np.float32)


def gelu(x: Array, mode: str = "EXACT") -> Array:
    """Gelu, exact or by tanh."""
    if mode == "EXACT":
        return np.asarray(x * np.float32(0.5) * (1 + erf(x * np.float32(math.sqrt(0.5)))))
    if mode == "TANH_APPROXIMATION":
        inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
        return np.asarray(np.float32(0.5) * x * (1 + np.tanh(inner)))
    raise UnsupportedError(f"gelu mode {mode!r} is not interpreted")


def sigmoid(x: Array) -> Array:
    """Logistic function, without overflow."""
    return np.asarray(np.float32(0.5) * (np.tanh(np.float32(0.5) * x) + 1))


def softmax(x: Array, axis: Array) -> Array:
    """Softmax, shifted by the largest score."""
    shifted = np.exp(x - x.max(axis=int(axis), keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=int(axis), keepdims=True))


def floor_div(x: Array, y: Array) -> Array:
    """Division rounded down."""
    return np.floor_divide(x, y)


def log(x: Array, epsilon: Array) -> Array:
    """Natural logarithm of `x + epsilon`."""
    return np.asarray(np.log(x + epsilon))


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """`x @ weight.T + bias` in float32."""
    product = x @ weight.T
    return product if bias is None else np.asarray(product + bias)


def matmul(x: Array, y: Array, transpose_x: Array | bool = False, transpose_y: Array | bool = False) -> Array:
    """Matrix product over the last two axes."""
    left = np.swapaxes(x, -1, -2) if bool(transpose_x) else x
    right = np.swapaxes(y, -1, -2) if bool(transpose_y) else y
    return np.asarray(left @ right)


def layer_norm(
    x: Array, axes: Array, epsilon: Array, gamma: Array | None = None, beta: Array | None = None
) -> Array:
    """Normalization over `axes`, statistics in float32."""
    over = _axes(axes)
    centered = x - x.mean(axis=over, keepdims=True, dtype=np.float32)
    variance = np.mean(centered * centered, axis=over, keepdims=True, dtype=np.float32)
    normal = centered / np.sqrt(variance + epsilon)
    scaled = normal if gamma is None else normal * gamma
    return np.asarray(scaled if beta is None else scaled + beta)


def batch_norm(
    x: Array,
    mean: Array,
    variance: Array,
    epsilon: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
) -> Array:
    """Normalization by constant statistics of axis 1."""
    shape = (1, -1) + (1,) * (x.ndim - 2)
    normal = (x - mean.reshape(shape)) / np.sqrt(variance.reshape(shape) + epsilon)
    scaled = normal if gamma is None else normal * gamma.reshape(shape)
    return np.asarray(scaled if beta is None else scaled + beta.reshape(shape))


def _axes(axes: Array | None) -> tuple[int, ...] | None:
    return None if axes is None else tuple(int(axis) for axis in axes.reshape(-1))


def reduction(compute: Callable[..., Array]) -> Operator:
    """An operator over `axes`; all axes when they are not given."""

    def run(x: Array, axes: Array | None = None, keep_dims: Array | bool = False) -> Array:
        return np.asarray(compute(x, axis=_axes(axes), keepdims=bool(keep_dims)))

    return run


def _sum_square(x: Array, axis: tuple[int, ...] | None, keepdims: bool) -> Array:
    return np.asarray(np.sum(x * x, axis=axis, keepdims=keepdims))


def _l1(x: Array, axis: tuple[int, ...] | None, keepdims: bool) -> Array:
    return np.asarray(np.sum(np.abs(x), axis=axis, keepdims=keepdims))


def _l2(x: Array, axis: tuple[int, ...] | None, keepdims: bool) -> Array:
    return np.sqrt(_sum_square(x, axis, keepdims))


def _log_sum_exp(x: Array, axis: tuple[int, ...] | None, keepdims: bool) -> Array:
    top = x.max(axis=axis, keepdims=True)
    total = np.log(np.sum(np.exp(x - top), axis=axis, keepdims=True)) + top
    return np.asarray(total if keepdims else total.squeeze(axis))


def arg_reduction(compute: Callable[..., Array]) -> Operator:
    """Position of the largest or smallest value."""

    def run(x: Array, axis: Array, keep_dims: Array | bool, output_dtype: str = "int32") -> Array:
        if output_dtype != "int32":
            raise UnsupportedError(f"an argmax of type {output_dtype!r} is not interpreted")
        return np.asarray(compute(x, axis=int(axis), keepdims=bool(keep_dims)), np.int32)

    return run


def elu(x: Array, alpha: Array) -> Array:
    """Elu."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def leaky_relu(x: Array, alpha: Array) -> Array:
    """LeakyRelu."""
    return np.where(x > 0, x, alpha * x)


def sigmoid_hard(x: Array, alpha: Array, beta: Array) -> Array:
    """`clip(alpha * x + beta, 0, 1)`."""
    return np.asarray(np.clip(alpha * x + beta, np.float32(0), np.float32(1)))


def one(compute: Callable[[Array], Array]) -> Operator:
    """An operator with the single operand `x`."""
    return lambda x: np.asarray(compute(x))


def two(compute: Callable[[Array, Array], Array]) -> Operator:
    """An operator with the operands `x` and `y`."""
    return lambda x, y: np.asarray(compute(x, y))


def conv(
    x: Array,
    weight: Array,
    strides: Array,
    pad_type: str,
    pad: Array,
    dilations: Array,
    groups: Array,
    bias: Array | None = None,
) -> Array:
    """Convolution over 1 to 3 spatial axes, by windows."""
    if pad_type != "custom":
        raise UnsupportedError(f"conv with pad_type {pad_type!r} is not interpreted")
    count, spatial = int(groups), x.ndim - 2
    padded = np.pad(x, [(0, 0), (0, 0), *pad.reshape(spatial, 2).tolist()])
    reach = [int((k - 1) * d + 1) for k, d in zip(weight.shape[2:], dilations, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, x.ndim)))
    step = tuple(slice(None, None, int(stride)) for stride in strides)
    inner = tuple(slice(None, None, int(dilation)) for dilation in dilations)
    windows = windows[(slice(None), slice(None), *step, *inner)]
    parts = [
        np.tensordot(
            part, kernel, axes=([1, *range(2 + spatial, 2 + 2 * spatial)], list(range(1, 2 + spatial)))
        )
        for part, kernel in zip(
            np.split(windows, count, axis=1), np.split(weight, count, axis=0), strict=True
        )
    ]
    result = np.moveaxis(np.concatenate(parts, axis=-1), -1, 1)
    return np.asarray(result if bias is None else result + bias.reshape(1, -1, *(1,) * spatial))


MATH: dict[str, Operator] = {
    "abs": one(np.abs),
    "add": two(np.add),
    "batch_norm": batch_norm,
    "ceil": one(np.ceil),
    "conv": conv,
    "cos": one(np.cos),
    "elu": elu,
    "equal": two(np.equal),
    "erf": one(erf),
    "exp": one(np.exp),
    "floor": one(np.floor),
    "floor_div": two(floor_div),
    "gelu": gelu,
    "greater": two(np.greater),
    "greater_equal": two(np.greater_equal),
    "layer_norm": layer_norm,
    "leaky_relu": leaky_relu,
    "less": two(np.less),
    "less_equal": two(np.less_equal),
    "linear": linear,
    "log": log,
    "logical_and": two(np.logical_and),
    "logical_not": one(np.logical_not),
    "logical_or": two(np.logical_or),
    "logical_xor": two(np.logical_xor),
    "matmul": matmul,
    "maximum": two(np.maximum),
    "minimum": two(np.minimum),
    "mod": two(np.mod),
    "mul": two(np.multiply),
    "not_equal": two(np.not_equal),
    "pow": two(np.power),
    "real_div": two(np.true_divide),
    "reduce_argmax": arg_reduction(np.argmax),
    "reduce_argmin": arg_reduction(np.argmin),
    "reduce_l1_norm": reduction(_l1),
    "reduce_l2_norm": reduction(_l2),
    "reduce_log_sum_exp": reduction(_log_sum_exp),
    "reduce_max": reduction(np.max),
    "reduce_mean": reduction(np.mean),
    "reduce_min": reduction(np.min),
    "reduce_prod": reduction(np.prod),
    "reduce_sum": reduction(np.sum),
    "reduce_sum_square": reduction(_sum_square),
    "relu": one(lambda x: np.maximum(x, x.dtype.type(0))),
    "round": one(np.rint),
    "sigmoid": one(sigmoid),
    "sigmoid_hard": sigmoid_hard,
    "sign": one(np.sign),
    "sin": one(np.sin),
    "softmax": softmax,
    "softplus": one(lambda x: np.logaddexp(x, np.float32(0))),
    "sqrt": one(np.sqrt),
    "sub": two(np.subtract),
    "tan": one(np.tan),
    "tanh": one(np.tanh),
}
