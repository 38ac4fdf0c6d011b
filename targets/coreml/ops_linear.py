"""Linear layers with their bias and static quantization, matrix products, convolutions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.targets.coreml.context import Context, Var
from edgeq.targets.coreml.decisions import ActivationQuant, equalization_of
from edgeq.targets.coreml.known import Known
from edgeq.targets.coreml.ops_elementwise import Lowering
from edgeq.targets.coreml.site import Site
from edgeq.targets.coreml.weights import linear_weight
from edgeq.types import FloatArray

_LINEAR_RANK = 3
"""MIL `linear` takes inputs up to this rank."""


def matmul(site: Site) -> Var:
    """MatMul: a linear layer when the right side is a weight matrix."""
    weight = site.seen(1)
    if isinstance(weight, Known) and weight.longest.ndim == 2 and not weight.varies and site.rank() > 1:
        return linear(site, weight, _fused_bias(site))
    return site.mb.matmul(x=site.var(0), y=site.var(1), name=site.name)


def gemm(site: Site) -> Var:
    """Gemm with a constant B; alpha and beta are folded into the weight and the bias."""
    weight = site.seen(1)
    alpha, beta = float(site.attr("alpha", 1.0)), float(site.attr("beta", 1.0))
    if not isinstance(weight, Known) or site.attr("transA", 0) or (alpha != 1.0 and weight.source is None):
        raise UnsupportedError(f"{site.where} needs transA=0 and a constant B")
    if alpha != 1.0:
        weight = Known.same(weight.longest * np.float32(alpha), len(weight.per_length))
    if site.attr("transB", 0):
        weight = Known(tuple(w.T for w in weight.per_length), weight.source, not weight.transposed)
    bias = site.known_or(2, None)
    width = weight.longest.shape[1]
    return linear(
        site, weight, None if bias is None else np.broadcast_to(bias * np.float32(beta), (1, width))[0]
    )


def linear(site: Site, weight: Known, bias: FloatArray | None) -> Var:
    """`x @ weight + bias`, `weight` being `[in, out]`."""
    x = linear_input(site, weight)
    name = f"{site.node.name or site.name}_weight"
    w = linear_weight(site.context, weight, site.dtype, name)
    extra = {} if bias is None else {"bias": site.context.to_dtype(bias, site.dtype, f"{site.name}_bias")}
    if site.rank() <= _LINEAR_RANK:
        return site.mb.linear(x=x, weight=w, name=site.name, **extra)
    product = site.mb.matmul(x=x, y=w, transpose_y=True)
    return site.mb.add(x=product, y=extra["bias"], name=site.name) if extra else product


def linear_input(site: Site, weight: Known) -> Var:
    """The input, equalized and statically quantized when decided, once for all layers that share it."""
    context, x = site.context, site.var(0)
    scale = equalization_of(context.weights.get(weight.source or ""))
    quant = context.activations.get(str(site.node.name))
    if scale is not None:
        x = _shared(context, ("equalize", x.name, scale.tobytes()), partial(_equalize, site, x, scale))
    if quant is not None:
        context.applied.add(str(site.node.name))
        x = _shared(context, ("quantize", x.name, quant), partial(_round_trip, site, x, quant))
    return x


def _shared(context: Context, key: tuple[object, ...], make: Callable[[], Var]) -> Var:
    if key not in context.shared:
        context.shared[key] = make()
    return context.shared[key]


def _equalize(site: Site, x: Var, scale: FloatArray) -> Var:
    inverse = site.context.to_dtype(1 / scale, site.dtype, f"{site.name}_equalization")
    return site.mb.mul(x=x, y=inverse, name=f"{x.name}_equalized")


def _round_trip(site: Site, x: Var, quant: ActivationQuant) -> Var:
    """Quantize and dequantize: Core ML runs the layer in int8 where the pattern and hardware allow."""
    scale = site.context.to_dtype(np.array(quant.scale, np.float32), site.dtype, site.name)[()]
    zero = np.dtype(quant.dtype).type(quant.zero_point)
    codes = site.mb.quantize(
        input=x, scale=scale, zero_point=zero, output_dtype=quant.dtype, name=f"{x.name}_{quant.dtype}"
    )
    return site.mb.dequantize(input=codes, scale=scale, zero_point=zero, name=f"{x.name}_dequantized")


def _fused_bias(site: Site) -> FloatArray | None:
    """The bias of the Add that alone reads this product; that Add is then done."""
    product = site.node.outputs[0]
    users = product.consumers()
    if len(users) != 1 or len(product.uses()) != 1 or product.is_graph_output() or users[0].op_type != "Add":
        return None
    add = users[0]
    other = add.inputs[1] if add.inputs[0] is product else add.inputs[0]
    known = site.context.values.get(other) if other is not None else None
    width = site.seen(1).longest.shape[1]
    if not isinstance(known, Known) or known.varies or known.longest.shape != (width,):
        return None
    if (add.name in site.context.kept_fp32) != (site.node.name in site.context.kept_fp32):
        return None
    site.name = Site(site.context, add).name
    site.context.done.add(add)
    site.context.absorbed[product] = add.outputs[0]
    return known.longest


def conv(site: Site) -> Var:
    """Conv in one to three dimensions with constant weights."""
    spatial = site.rank() - 2
    site.only("auto_pad", "NOTSET", "VALID")
    pads = list(site.attr("pads", [0] * (2 * spatial)))
    extra = {"bias": site.var(2)} if site.has(2) else {}
    return site.mb.conv(
        x=site.var(0),
        weight=site.var(1),
        strides=list(site.attr("strides", [1] * spatial)),
        pad_type="custom",
        pad=[pads[axis + side * spatial] for axis in range(spatial) for side in (0, 1)],
        dilations=list(site.attr("dilations", [1] * spatial)),
        groups=int(site.attr("group", 1)),
        name=site.name,
        **extra,
    )


LINEAR: dict[str, Lowering] = {"Conv": conv, "Gemm": gemm, "MatMul": matmul}
