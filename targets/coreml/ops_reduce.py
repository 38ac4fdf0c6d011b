"""Reductions, softmax and normalization layers."""

from __future__ import annotations

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.targets.coreml.context import FP16_SMALLEST, Var, dtype_of
from edgeq.targets.coreml.ops_elementwise import Lowering, identity
from edgeq.targets.coreml.site import Site


def reduction(mil: str) -> Lowering:
    """A reduction over constant axes (input since opset 18, attribute before)."""

    def lower(site: Site) -> Var:
        given = site.known_or(1, None)
        axes = [int(axis) for axis in (site.attr("axes", []) if given is None else given.reshape(-1))]
        if not axes and site.attr("noop_with_empty_axes", 0):
            return identity(site)
        keep = bool(site.attr("keepdims", 1))
        axes = sorted(axis % site.rank() for axis in axes) or list(range(site.rank()))
        return getattr(site.mb, mil)(x=site.var(0), axes=axes, keep_dims=keep, name=site.name)

    return lower


def arg_reduction(mil: str) -> Lowering:
    """ArgMax and ArgMin, first of equals."""

    def lower(site: Site) -> Var:
        site.only("select_last_index", 0)
        keep = bool(site.attr("keepdims", 1))
        return getattr(site.mb, mil)(x=site.var(0), axis=site.axis(0), keep_dims=keep, name=site.name)

    return lower


def softmax(site: Site) -> Var:
    """Softmax along an axis (opset 13 meaning)."""
    return site.mb.softmax(x=site.var(0), axis=site.axis(-1), name=site.name)


def log_softmax(site: Site) -> Var:
    """LogSoftmax, by shifting with the log of the summed exponentials of shifted scores."""
    axis = site.axis(-1)
    top = site.mb.reduce_max(x=site.var(0), axes=[axis], keep_dims=True)
    shifted = site.mb.sub(x=site.var(0), y=top)
    return site.mb.sub(
        x=shifted, y=site.mb.reduce_log_sum_exp(x=shifted, axes=[axis], keep_dims=True), name=site.name
    )


def layer_normalization(site: Site) -> Var:
    """LayerNormalization over the last axes; its statistics outputs are not offered."""
    if len([value for value in site.node.outputs if value.uses() or value.is_graph_output()]) > 1:
        raise UnsupportedError(f"{site.where} returns its mean or variance, which MIL does not")
    axes = list(range(site.axis(-1), site.rank()))
    shift = {"beta": site.var(2)} if site.has(2) else {}
    epsilon = stored_epsilon(site, float(site.attr("epsilon", 1e-5)))
    return site.mb.layer_norm(
        x=site.var(0), axes=axes, gamma=site.var(1), epsilon=epsilon, name=site.name, **shift
    )


def rms_normalization(site: Site) -> Var:
    """RMSNormalization (opset 23), written out: MIL has no operator for it."""
    x = site.var(0)
    axes = list(range(site.axis(-1), site.rank()))
    mean = site.mb.reduce_mean(x=site.mb.mul(x=x, y=x), axes=axes, keep_dims=True)
    root = site.mb.sqrt(x=site.mb.add(x=mean, y=stored_epsilon(site, float(site.attr("epsilon", 1e-5)))))
    return site.mb.mul(x=site.mb.real_div(x=x, y=root), y=site.var(1), name=site.name)


def batch_normalization(site: Site) -> Var:
    """BatchNormalization with constant statistics."""
    site.only("training_mode", 0)
    gamma, beta, mean, variance = (site.var(index) for index in (1, 2, 3, 4))
    epsilon = stored_epsilon(site, float(site.attr("epsilon", 1e-5)))
    return site.mb.batch_norm(
        x=site.var(0), gamma=gamma, beta=beta, mean=mean, variance=variance, epsilon=epsilon, name=site.name
    )


def stored_epsilon(site: Site, epsilon: float) -> np.floating:
    """An epsilon in the compute dtype that does not become zero."""
    if site.dtype == "fp32":
        return np.float32(epsilon)
    if 0 < epsilon < FP16_SMALLEST:
        site.context.note(f"epsilon {epsilon:.3g} raised to {FP16_SMALLEST:.3g}, the smallest float16")
    return np.float16(max(epsilon, FP16_SMALLEST) if epsilon > 0 else 0.0)


def reduce_any(mil: str) -> Lowering:
    """ReduceMax and ReduceMin, which ONNX defines for booleans too."""
    base = reduction(mil)

    def lower(site: Site) -> Var:
        if dtype_of(site.var(0)) == "bool":
            raise UnsupportedError(f"{site.where} reduces booleans; cast them to a number first")
        return base(site)

    return lower


REDUCE: dict[str, Lowering] = {
    "ArgMax": arg_reduction("reduce_argmax"),
    "ArgMin": arg_reduction("reduce_argmin"),
    "BatchNormalization": batch_normalization,
    "LayerNormalization": layer_normalization,
    "LogSoftmax": log_softmax,
    "RMSNormalization": rms_normalization,
    "ReduceL1": reduction("reduce_l1_norm"),
    "ReduceL2": reduction("reduce_l2_norm"),
    "ReduceLogSumExp": reduction("reduce_log_sum_exp"),
    "ReduceMax": reduce_any("reduce_max"),
    "ReduceMean": reduction("reduce_mean"),
    "ReduceMin": reduce_any("reduce_min"),
    "ReduceProd": reduction("reduce_prod"),
    "ReduceSum": reduction("reduce_sum"),
    "ReduceSumSquare": reduction("reduce_sum_square"),
    "Softmax": softmax,
}
