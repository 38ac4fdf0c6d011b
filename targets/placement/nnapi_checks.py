"""The NNAPI rules that are more than a type, rank, constant or attribute."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeq.targets.placement.node_units import NodeUnit
from edgeq.targets.placement.read_model import dtype_name
from edgeq.targets.placement.rules import Context, Refusal

QLINEAR_BINARY_CONSTANTS: dict[int, str] = {
    1: "scale of A",
    2: "zero point of A",
    4: "scale of B",
    5: "zero point of B",
    6: "scale of the output",
    7: "zero point of the output",
}
QLINEAR_UNARY_CONSTANTS: Mapping[int, str] = {
    1: "scale of X",
    2: "zero point of X",
    3: "scale of Y",
    4: "zero point of Y",
}
GEMM_FIX = "reshape the activations to [batch*sequence, hidden] and use Gemm with a constant B and transB=0"
UNSIGNED_FIX = "quantize activations to uint8, per tensor"


def _size(context: Context, name: str) -> int | None:
    shape = context.graph.static_shape(name)
    return None if shape is None else int(np.prod(shape, dtype=np.int64))


def exactly_two_inputs(context: Context, unit: NodeUnit) -> Refusal | None:
    """Max and Min of two values."""
    count = sum(1 for name in unit.target.inputs if name)
    return None if count == 2 else Refusal(f"{count} inputs, expected exactly 2", "chain them two by two")


def one_output(context: Context, unit: NodeUnit) -> Refusal | None:
    """No second output (indices, running statistics)."""
    count = sum(1 for name in unit.target.outputs if name)
    return None if count == 1 else Refusal(f"{count} outputs, expected 1")


def clip_is_relu6_or_relu1(context: Context, unit: NodeUnit) -> Refusal | None:
    """NNAPI has RELU6 and RELU1 only."""
    bounds: list[float | None] = []
    for position, name, default in ((1, "min", -np.inf), (2, "max", np.inf)):
        if unit.has_input(position):
            value = context.graph.constant(unit.input(position).name)
            bounds.append(None if value is None or value.size != 1 else float(value.reshape(-1)[0]))
        else:
            bounds.append(float(unit.target.attributes.get(name, default)))
    if None in bounds:
        return Refusal("min and max must be scalar constants", "make them initializers")
    if tuple(bounds) in ((0.0, 6.0), (-1.0, 1.0)):
        return None
    return Refusal(
        f"clips to [{bounds[0]:g}, {bounds[1]:g}], expected [0, 6] or [-1, 1]",
        "use Max and Min with constants",
    )


def cast_to_float_or_int32(context: Context, unit: NodeUnit) -> Refusal | None:
    """The input is float (checked before), the output float or int32."""
    to = dtype_name(int(unit.target.attributes.get("to", 0)))
    return None if to in ("float32", "int32") else Refusal(f"casts to {to}, expected float32 or int32")


def softmax_level(context: Context, unit: NodeUnit) -> int:
    """Level 28 takes rank 2 or 4 along the last axis; any other needs 29."""
    rank = context.graph.rank(unit.input(0).name)
    # The provider reads a missing axis as 1, whatever the opset.
    axis = int(unit.target.attributes.get("axis", 1))
    last = rank is not None and axis in (-1, rank - 1)
    return 28 if rank in (2, 4) and last else 29


def softmax_rank(context: Context, unit: NodeUnit) -> Refusal | None:
    """Up to 4 dimensions; before opset 13 the input is flattened to 2-D, whatever its rank."""
    rank = context.graph.rank(unit.input(0).name)
    if unit.target.since_version < 13 or (rank is not None and rank <= 4):
        return None
    return Refusal(f"input 0 has rank {rank}, expected at most 4", "merge dimensions with a Reshape")


def constant_reduce_axes(context: Context, unit: NodeUnit) -> Refusal | None:
    """Axes as attribute (before 18) or as a constant input."""
    if unit.target.since_version < 18:
        return None
    if unit.has_input(1) and not context.graph.is_constant(unit.input(1).name):
        return Refusal("axes (input 1) must be a constant", "make it an initializer")
    if int(unit.target.attributes.get("noop_with_empty_axes", 0)):
        axes = context.graph.constant(unit.input(1).name) if unit.has_input(1) else None
        if axes is None or axes.size == 0:
            return Refusal("noop_with_empty_axes=1 without axes is not supported", "remove the operator")
    return None


def _is_batched(context: Context, unit: NodeUnit) -> bool:
    ranks = [context.graph.rank(unit.input(position).name) for position in (0, 1)]
    return any(rank != 2 for rank in ranks)


def matmul_level(context: Context, unit: NodeUnit) -> int:
    """2-D needs 27, batched (built from SPLIT) 29."""
    return 29 if _is_batched(context, unit) else 27


def matmul_shapes(context: Context, unit: NodeUnit) -> Refusal | None:
    """2-D with a constant B, or batched with equal leading dimensions."""
    a, b = (context.graph.static_shape(unit.input(position).name) or () for position in (0, 1))
    if len(a) == 2 and len(b) == 2:
        if context.graph.is_constant(unit.input(1).name):
            return None
        return Refusal("B of a 2-D MatMul must be a constant", "use Gemm with transB=1 for a computed B")
    if len(a) >= 3 and len(a) == len(b) and a[:-2] == b[:-2]:
        return None
    constant = context.graph.is_constant(unit.input(1).name)
    return Refusal(
        f"shapes {list(a)} x {list(b)}: A and B must be 2-D, or of the same rank of at least 3 "
        "with equal leading dimensions",
        GEMM_FIX
        if constant and len(b) == 2
        else "repeat nothing by broadcasting: give both the same leading dimensions",
    )


def gemm_level(context: Context, unit: NodeUnit) -> int:
    """A bias that is not one-dimensional is squeezed, which needs 28."""
    if not unit.has_input(2):
        return 27
    rank = context.graph.rank(unit.input(2).name)
    return 27 if rank == 1 else 28


def gemm_weight_constant(context: Context, unit: NodeUnit) -> Refusal | None:
    """Without transB the weight is transposed when the model is built, so it must be known."""
    if int(unit.target.attributes.get("transB", 0)) or context.graph.is_constant(unit.input(1).name):
        return None
    return Refusal("B must be a constant when transB=0", "make B an initializer, or use transB=1")


def gemm_bias_shape(context: Context, unit: NodeUnit) -> Refusal | None:
    """`[N]`, or N values behind ones."""
    if not unit.has_input(2):
        return None
    bias = context.graph.static_shape(unit.input(2).name)
    weight = context.graph.static_shape(unit.input(1).name)
    if bias is None or weight is None:
        return Refusal("the bias has no fixed shape")
    columns = weight[0] if int(unit.target.attributes.get("transB", 0)) else weight[1]
    if bias and bias[-1] == columns and all(dim == 1 for dim in bias[:-1]):
        return None
    return Refusal(
        f"bias of shape {list(bias)}, expected [{columns}]", "store the bias as one value per column"
    )


def conv_2d(context: Context, unit: NodeUnit) -> Refusal | None:
    """Images only."""
    rank = context.graph.rank(unit.input(1).name)
    return None if rank == 4 else Refusal(f"weight has rank {rank}, expected 4 (2-D convolution)")


def conv_dilations(context: Context, unit: NodeUnit) -> Refusal | None:
    """Dilation came with level 29, and not for grouped convolutions."""
    if all(value == 1 for value in unit.target.attributes.get("dilations", ())):
        return None
    if context.level < 29:
        return Refusal("dilation needs feature level 29 (Android 10)")
    group = int(unit.target.attributes.get("group", 1))
    weight = context.graph.static_shape(unit.input(1).name)
    if group != 1 and weight is not None and weight[1] != 1:  # rank 4, checked before
        return Refusal("dilation together with groups is not supported")
    return None


def no_zero_dim(context: Context, unit: NodeUnit) -> Refusal | None:
    """An empty tensor means `unknown size` to NNAPI."""
    shape = context.graph.static_shape(unit.input(0).name) or ()
    return Refusal(f"input 0 of shape {list(shape)} is empty") if 0 in shape else None


def gather_indices(context: Context, unit: NodeUnit) -> Refusal | None:
    """int32 from anywhere, other integers only as constants."""
    name = unit.input(1).name
    dtype = context.graph.dtype(name)
    if dtype == "int32" or (context.graph.is_constant(name) and dtype is not None):
        return None
    return Refusal(
        f"indices are {dtype} and not constant, expected int32", "make input_ids an int32 graph input"
    )


def reshape_zeros(context: Context, unit: NodeUnit) -> Refusal | None:
    """A 0 means `copy this dimension`; with allowzero=1 it would mean empty."""
    shape = context.graph.constant(unit.input(1).name)
    if shape is not None and int(unit.target.attributes.get("allowzero", 0)) and 0 in shape:
        return Refusal("allowzero=1 with a 0 in the shape is not supported")
    return None


def even_split(context: Context, unit: NodeUnit) -> Refusal | None:
    """NNAPI SPLIT makes equal parts."""
    outputs = sum(1 for name in unit.target.outputs if name)
    if unit.has_input(1):
        parts = context.graph.constant(unit.input(1).name)
        if parts is not None and len(set(parts.reshape(-1).tolist())) > 1:
            return Refusal(f"parts {parts.tolist()} are not equal", "use Slice for parts of different size")
        return None
    if unit.target.since_version >= 18:
        declared = int(unit.target.attributes.get("num_outputs", 0))
        if declared != outputs:
            return Refusal(f"num_outputs is {declared}, expected {outputs}", "write num_outputs")
        shape = context.graph.static_shape(unit.input(0).name) or ()
        axis = int(unit.target.attributes.get("axis", 0))
        size = shape[axis] if -len(shape) <= axis < len(shape) else None
        if size is None or size % outputs:
            return Refusal(f"dimension {size} does not divide into {outputs} equal parts")
    return None


def no_negative_pads(context: Context, unit: NodeUnit) -> Refusal | None:
    """Cropping is not padding."""
    pads = context.graph.constant(unit.input(1).name)
    return Refusal("negative pads", "use Slice to crop") if pads is not None and (pads < 0).any() else None


def no_pool_dilations(context: Context, unit: NodeUnit) -> Refusal | None:
    """Pooling windows without holes."""
    dilations = list(unit.target.attributes.get("dilations", ()))
    return Refusal(f"dilations are {dilations}, expected 1") if any(d != 1 for d in dilations) else None


def two_dimensional_kernel(context: Context, unit: NodeUnit) -> Refusal | None:
    """Images only."""
    kernel = list(unit.target.attributes.get("kernel_shape", ()))
    return None if len(kernel) == 2 else Refusal(f"kernel_shape is {kernel}, expected two numbers")


def resize_level(context: Context, unit: NodeUnit) -> int:
    """uint8 28, float 29, linear with align_corners 30."""
    mode = _text(unit, "coordinate_transformation_mode", "half_pixel")
    if _text(unit, "mode", "nearest") == "linear" and mode in ("align_corners", "half_pixel"):
        return 30
    return 28 if context.graph.dtype(unit.input(0).name) == "uint8" else 29


def _text(unit: NodeUnit, name: str, default: str) -> str:
    value = unit.target.attributes.get(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)


def resize_mode(context: Context, unit: NodeUnit) -> Refusal | None:
    """The combinations of interpolation and coordinates that NNAPI has."""
    mode = _text(unit, "mode", "nearest")
    coordinates = _text(unit, "coordinate_transformation_mode", "half_pixel")
    if int(unit.target.attributes.get("exclude_outside", 0)):
        return Refusal("exclude_outside=1 is not supported")
    if mode == "linear" and coordinates in ("asymmetric", "half_pixel", "align_corners"):
        return None
    nearest = _text(unit, "nearest_mode", "round_prefer_floor")
    if mode == "nearest" and coordinates == "asymmetric" and nearest == "floor":
        return None
    return Refusal(
        f"{mode} with {coordinates} ({nearest}), expected linear, or nearest with asymmetric and floor",
        "export the resize as asymmetric/floor or as linear",
    )


def resize_scales(context: Context, unit: NodeUnit) -> Refusal | None:
    """Constant scales or sizes that leave batch and channels alone."""
    for position, label in ((3, "sizes"), (2, "scales")):
        if not unit.has_input(position):
            continue
        values = context.graph.constant(unit.input(position).name)
        if values is None:
            return Refusal(f"{label} (input {position}) must be a constant", "make it an initializer")
        if values.size == 0:
            continue
        shape = context.graph.static_shape(unit.input(0).name) or ()
        kept = (1.0, 1.0) if label == "scales" else tuple(shape[:2])
        if tuple(values.reshape(-1)[:2]) != kept:
            return Refusal("batch or channels are scaled", "resize height and width only")
        return None
    return Refusal("neither scales nor sizes is given")


def q_output_u8(context: Context, unit: NodeUnit) -> Refusal | None:
    """The only quantized type NNAPI takes at the graph's edge."""
    dtype = context.graph.dtype(unit.target.outputs[0])
    return None if dtype == "uint8" else Refusal(f"output is {dtype}, expected uint8", UNSIGNED_FIX)


def dq_input_u8(context: Context, unit: NodeUnit) -> Refusal | None:
    """int8, int32 and int4 data cannot be dequantized."""
    dtype = context.graph.dtype(unit.target.inputs[0])
    if dtype == "uint8":
        return None
    return Refusal(
        f"input is {dtype}, expected uint8",
        "store weights behind a QDQ group (MatMul, Gemm, Conv) or as uint8, or load the model with "
        "session.disable_quant_qdq=1 so that they are folded to float",
    )


def per_tensor_constants(context: Context, unit: NodeUnit) -> Refusal | None:
    """One constant scale and zero point."""
    for position, label in ((1, "scale"), (2, "zero point")):
        if not unit.has_input(position):
            continue
        name = unit.target.inputs[position]
        if not context.graph.is_constant(name):
            return Refusal(f"the {label} must be a constant", "make it an initializer")
        if _size(context, name) != 1:
            return Refusal(f"the {label} is per channel, expected per tensor", "quantize per tensor")
    return None


def standard_domain(context: Context, unit: NodeUnit) -> Refusal | None:
    """The contrib QLinearConv (channels last) is another operator."""
    return Refusal("QLinearConv of com.microsoft is not supported") if unit.target.domain else None


def qlinear_conv_2d(context: Context, unit: NodeUnit) -> Refusal | None:
    """2-D; int8 weights have zero points 0, and per channel needs level 29."""
    weight = context.graph.static_shape(unit.target.inputs[3])
    if weight is None or len(weight) != 4:
        return Refusal("weight must have rank 4 (2-D convolution)")
    count = _size(context, unit.target.inputs[4])
    if count != 1 and (context.level < 29 or context.graph.dtype(unit.target.inputs[3]) != "int8"):
        return Refusal("per-channel weights need int8 and feature level 29")
    zero = context.graph.constant(unit.target.inputs[5])
    if context.graph.dtype(unit.target.inputs[3]) == "int8" and zero is not None and zero.any():
        return Refusal("int8 weights need zero point 0", "quantize weights symmetrically")
    return None


def qlinear_per_tensor(context: Context, unit: NodeUnit) -> Refusal | None:
    """MatMul has no per-channel form; int8 weights are symmetric."""
    if _size(context, unit.target.inputs[4]) != 1:
        return Refusal("B is quantized per channel, expected per tensor", "quantize per tensor")
    zero = context.graph.constant(unit.target.inputs[5])
    if context.graph.dtype(unit.target.inputs[3]) == "int8" and zero is not None and zero.any():
        return Refusal("int8 weights need zero point 0", "quantize weights symmetrically")
    return None


def qlinear_sigmoid_scale(context: Context, unit: NodeUnit) -> Refusal | None:
    """NNAPI LOGISTIC has a fixed output quantization."""
    scale = context.graph.constant(unit.target.inputs[3])
    zero = context.graph.constant(unit.target.inputs[4]) if unit.has_input(4) else np.zeros(1)
    return output_is_256th(scale, zero)


def output_is_256th(scale: np.ndarray | None, zero: np.ndarray | None) -> Refusal | None:
    """Output scale exactly 1/256 and zero point 0, as LOGISTIC and SOFTMAX have it."""
    if scale is not None and zero is not None and scale.size == 1 and zero.size == 1:
        if float(scale.reshape(-1)[0]) == 1 / 256 and int(zero.reshape(-1)[0]) == 0:
            return None
        found = f"output scale {float(scale.reshape(-1)[0]):g} and zero point {int(zero.reshape(-1)[0])}"
        return Refusal(
            f"{found}, expected exactly 1/256 and 0", "give the output scale 1/256 and zero point 0"
        )
    return Refusal("output scale and zero point must be scalar constants")


def qlinear_equal_quantization(context: Context, unit: NodeUnit) -> Refusal | None:
    """Pooling keeps the quantization of its input."""
    first = [context.graph.constant(name) for name in unit.target.inputs[1:3]]
    second = [context.graph.constant(name) for name in unit.target.inputs[3:5]]
    same = len(first) == len(second) and all(
        a is not None and b is not None and np.array_equal(a, b) for a, b in zip(first, second, strict=True)
    )
    return None if same else Refusal("input and output quantization differ", "use one scale for both")
