"""ONNX operators that work element by element, each as one or two MIL operators."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.targets.coreml.context import FP16_SMALLEST_NORMAL, Var, dtype_of, is_float
from edgeq.targets.coreml.site import Site

Lowering = Callable[[Site], Var]

_ONNX_TYPES = {
    1: "float",
    10: "float",
    11: "float",
    16: "float",
    6: "int32",
    7: "int32",
    5: "int32",
    2: "int32",
}
_ONNX_TYPES |= {3: "int32", 9: "bool", 12: "int32", 13: "int32"}
"""ONNX element types as what Core ML computes in: floats take the node's dtype, integers int32."""


def unary(mil: str) -> Lowering:
    """A one-operand operator of the same meaning in MIL."""
    return lambda site: getattr(site.mb, mil)(x=site.var(0), name=site.name)


def binary(mil: str) -> Lowering:
    """A broadcasting two-operand operator."""
    return lambda site: getattr(site.mb, mil)(x=site.var(0), y=site.var(1), name=site.name)


def variadic(mil: str) -> Lowering:
    """Max, Min, Sum: any number of operands."""

    def lower(site: Site) -> Var:
        operands = [site.var(index) for index in range(len(site.node.inputs))]
        if len(operands) == 1:
            return site.mb.identity(x=operands[0], name=site.name)
        return reduce(lambda x, y: getattr(site.mb, mil)(x=x, y=y), operands)

    return lower


def divide(site: Site) -> Var:
    """Div: real for floats; integers only where floor and truncation agree, which MIL cannot tell."""
    if is_float(dtype_of(site.var(0))):
        return site.mb.real_div(x=site.var(0), y=site.var(1), name=site.name)
    divisor = site.known(1)
    if (divisor <= 0).any():
        raise UnsupportedError(
            f"{site.where} divides integers by {divisor.min()}; a positive divisor was expected"
        )
    # ONNX truncates toward zero, MIL rounds down: divide the magnitude and put the sign back.
    size = site.mb.floor_div(x=site.mb.abs(x=site.var(0)), y=site.var(1))
    return site.mb.mul(x=size, y=site.mb.sign(x=site.var(0)), name=site.name)


def reciprocal(site: Site) -> Var:
    """Reciprocal, without the epsilon that MIL's `inverse` adds."""
    one = np.float16(1) if site.dtype == "fp16" else np.float32(1)
    return site.mb.real_div(x=one, y=site.var(0), name=site.name)


def logarithm(site: Site) -> Var:
    """Log, without the epsilon that MIL adds by default."""
    zero = np.float16(0) if site.dtype == "fp16" else np.float32(0)
    return site.mb.log(x=site.var(0), epsilon=zero, name=site.name)


def negate(site: Site) -> Var:
    """Neg as a product with -1."""
    x = site.var(0)
    minus = {"fp16": np.float16(-1), "fp32": np.float32(-1), "int32": np.int32(-1)}[dtype_of(x)]
    return site.mb.mul(x=x, y=minus, name=site.name)


def gelu(site: Site) -> Var:
    """Gelu, exact or by tanh."""
    site.only("approximate", "none", "tanh")
    mode = "EXACT" if site.attr("approximate", "none") == "none" else "TANH_APPROXIMATION"
    return site.mb.gelu(x=site.var(0), mode=mode, name=site.name)


def leaky_relu(site: Site) -> Var:
    """LeakyRelu with its slope."""
    return site.mb.leaky_relu(x=site.var(0), alpha=_scalar(site, site.attr("alpha", 0.01)), name=site.name)


def elu(site: Site) -> Var:
    """Elu with its alpha."""
    return site.mb.elu(x=site.var(0), alpha=_scalar(site, site.attr("alpha", 1.0)), name=site.name)


def hard_sigmoid(site: Site) -> Var:
    """HardSigmoid: `clip(alpha * x + beta, 0, 1)`."""
    alpha, beta = (
        _scalar(site, site.attr(name, default)) for name, default in (("alpha", 0.2), ("beta", 0.5))
    )
    return site.mb.sigmoid_hard(x=site.var(0), alpha=alpha, beta=beta, name=site.name)


def hard_swish(site: Site) -> Var:
    """HardSwish: `x * clip(x / 6 + 1 / 2, 0, 1)`."""
    gate = site.mb.sigmoid_hard(x=site.var(0), alpha=_scalar(site, 1 / 6), beta=_scalar(site, 0.5))
    return site.mb.mul(x=site.var(0), y=gate, name=site.name)


def _scalar(site: Site, value: float) -> np.floating:
    return np.float16(value) if site.dtype == "fp16" else np.float32(value)


def cast(site: Site) -> Var:
    """Cast, to the compute dtype when the target is a float."""
    target = _ONNX_TYPES.get(int(site.attr("to", 0)))
    if target is None:
        raise UnsupportedError(f"{site.where} casts to ONNX type {site.attr('to', 0)}, which Core ML has not")
    x = site.context.values[site.value(0)]
    wanted = site.dtype if target == "float" else target
    if dtype_of(x) == wanted or (is_float(dtype_of(x)) and target == "float"):
        return x
    return site.context.cast(x, wanted)


def identity(site: Site) -> Var:
    """Identity and inference-time Dropout: the value itself."""
    return site.context.values[site.value(0)]


def select(site: Site) -> Var:
    """Where."""
    return site.mb.select(cond=site.var(0, "bool"), a=site.var(1), b=site.var(2), name=site.name)


def clip(site: Site) -> Var:
    """Clip by its constant bounds, one or both."""
    x = site.var(0)
    for index, mil in ((1, "maximum"), (2, "minimum")):
        if site.has(index):
            bound = _bound(site, index, dtype_of(x))
            x = getattr(site.mb, mil)(x=x, y=bound)
    return site.mb.identity(x=x, name=site.name)


def _bound(site: Site, index: int, dtype: str) -> np.generic:
    value = float(site.known(index).reshape(()))
    if dtype == "int32":
        return np.int32(np.clip(value, np.iinfo(np.int32).min, np.iinfo(np.int32).max))
    if dtype == "fp32":
        return np.float32(np.clip(value, np.finfo(np.float32).min, np.finfo(np.float32).max))
    if index == 1 and 0 < value < FP16_SMALLEST_NORMAL:
        # A guard against dividing by zero must not itself become zero, nor a subnormal that hardware flushes.
        site.context.note(
            f"lower bound {value:g} of `{site.node.name}` raised to {FP16_SMALLEST_NORMAL:.3g} for float16"
        )
        value = FP16_SMALLEST_NORMAL
    return np.float16(np.clip(value, np.finfo(np.float16).min, np.finfo(np.float16).max))


def compare_or_equal(mil: str) -> Lowering:
    """Equal and Not-equal style comparisons; booleans are compared as integers."""

    def lower(site: Site) -> Var:
        x, y = site.var(0), site.var(1)
        if dtype_of(x) == "bool":
            x, y = site.context.cast(x, "int32"), site.var(1, "int32")
        return getattr(site.mb, mil)(x=x, y=y, name=site.name)

    return lower


def modulo(site: Site) -> Var:
    """Mod of non-negative integers or floats with fmod=0, where every definition agrees."""
    site.only("fmod", 0)
    return site.mb.mod(x=site.var(0), y=site.var(1), name=site.name)


ELEMENTWISE: dict[str, Lowering] = {
    "Abs": unary("abs"),
    "Add": binary("add"),
    "And": binary("logical_and"),
    "Cast": cast,
    "Ceil": unary("ceil"),
    "Clip": clip,
    "Cos": unary("cos"),
    "Div": divide,
    "Dropout": identity,
    "Elu": elu,
    "Equal": compare_or_equal("equal"),
    "Erf": unary("erf"),
    "Exp": unary("exp"),
    "Floor": unary("floor"),
    "Gelu": gelu,
    "Greater": binary("greater"),
    "GreaterOrEqual": binary("greater_equal"),
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "Identity": identity,
    "LeakyRelu": leaky_relu,
    "Less": binary("less"),
    "LessOrEqual": binary("less_equal"),
    "Log": logarithm,
    "Max": variadic("maximum"),
    "Min": variadic("minimum"),
    "Mod": modulo,
    "Mul": binary("mul"),
    "Neg": negate,
    "Not": unary("logical_not"),
    "Or": binary("logical_or"),
    "Pow": binary("pow"),
    "Reciprocal": reciprocal,
    "Relu": unary("relu"),
    "Round": unary("round"),
    "Sigmoid": unary("sigmoid"),
    "Sign": unary("sign"),
    "Sin": unary("sin"),
    "Softplus": unary("softplus"),
    "Sqrt": unary("sqrt"),
    "Sub": binary("sub"),
    "Sum": variadic("add"),
    "Tan": unary("tan"),
    "Tanh": unary("tanh"),
    "Where": select,
    "Xor": binary("logical_xor"),
}
