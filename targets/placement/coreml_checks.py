"""The Core ML rules that are more than a type, rank, constant or attribute."""

from __future__ import annotations

import numpy as np

from edgeq.targets.placement.node_units import NodeUnit
from edgeq.targets.placement.read_model import dtype_name
from edgeq.targets.placement.rules import Context, Refusal

MAX_RANK = 5
_CAST_TYPES = ("float32", "float16", "int32", "int64")
_MAX_CONV_DIM = 16384


def version_6_for_half(context: Context, unit: NodeUnit) -> int:
    """Gather and Slice of float16 came with Core ML 6."""
    return 6 if context.graph.dtype(unit.input(0).name) == "float16" else 5


def same_dtype(context: Context, unit: NodeUnit) -> Refusal | None:
    """All given inputs have one element type."""
    names = [name for name in unit.target.inputs if name]
    dtypes = {context.graph.dtype(name) for name in names}
    found = ", ".join(sorted(str(dtype) for dtype in dtypes))
    return (
        None
        if len(dtypes) == 1
        else Refusal(f"inputs of different types ({found}), expected one", "add a Cast")
    )


def one_output(context: Context, unit: NodeUnit) -> Refusal | None:
    """No second output."""
    count = sum(1 for name in unit.target.outputs if name)
    return None if count == 1 else Refusal(f"{count} outputs, expected 1")


def at_least_two_inputs(context: Context, unit: NodeUnit) -> Refusal | None:
    """Concat of one tensor is a copy."""
    count = sum(1 for name in unit.target.inputs if name)
    return None if count >= 2 else Refusal(f"{count} inputs, expected at least 2", "remove the operator")


def at_least_two_outputs(context: Context, unit: NodeUnit) -> Refusal | None:
    """Split into one part is a copy."""
    count = len(unit.target.outputs)
    return None if count >= 2 else Refusal(f"{count} outputs, expected at least 2", "remove the operator")


def clip_range(context: Context, unit: NodeUnit) -> Refusal | None:
    """Min and max differ."""
    bounds = []
    for position, name, default in ((1, "min", -np.inf), (2, "max", np.inf)):
        value = context.graph.constant(unit.input(position).name) if unit.has_input(position) else None
        if value is not None and value.size != 1:
            return Refusal(f"{name} has {value.size} values, expected one")
        bounds.append(unit.target.attributes.get(name, default) if value is None else value.item())
    return Refusal(f"min and max are both {bounds[0]}", "use a constant") if bounds[0] == bounds[1] else None


def cast_after_argmax(context: Context, unit: NodeUnit) -> Refusal | None:
    """A NeuralNetwork has integers only as the result of ArgMax."""
    producer = context.graph.producer.get(unit.target.inputs[0])
    if producer is not None and producer.op_type == "ArgMax" and _cast_to(unit) == "int32":
        return None
    return Refusal("only a Cast of ArgMax to int32 is supported", "use the MLProgram format")


def _cast_to(unit: NodeUnit) -> str:
    return dtype_name(int(unit.target.attributes.get("to", 0)))


def cast_types(context: Context, unit: NodeUnit) -> Refusal | None:
    """Numbers only."""
    to = _cast_to(unit)
    return None if to in _CAST_TYPES else Refusal(f"casts to {to}, expected one of {', '.join(_CAST_TYPES)}")


def has_producer(context: Context, unit: NodeUnit) -> Refusal | None:
    """The provider looks at the node behind a Cast and refuses when there is none."""
    if unit.target.inputs[0] in context.graph.producer:
        return None
    return Refusal(
        "the Cast is fed directly by a graph input",
        "give the graph input the type it is cast to (a float mask)",
    )


def softmax_static_before_13(context: Context, unit: NodeUnit) -> Refusal | None:
    """The old Softmax flattens, which needs the sizes."""
    if unit.target.since_version >= 13 or context.graph.static_shape(unit.input(0).name) is not None:
        return None
    return Refusal("Softmax before opset 13 needs fixed dimensions", "export at opset 13 or later")


def constant_axes(context: Context, unit: NodeUnit) -> Refusal | None:
    """noop_with_empty_axes without axes reduces nothing."""
    if int(unit.target.attributes.get("noop_with_empty_axes", 0)) and not unit.has_input(1):
        return Refusal("noop_with_empty_axes=1 without axes is not supported", "remove the operator")
    return None


def gemm_bias(context: Context, unit: NodeUnit) -> Refusal | None:
    """Scalar, one value, or one value per column."""
    if not unit.has_input(2):
        return None
    shape = context.graph.static_shape(unit.input(2).name)
    weight = context.graph.static_shape(unit.input(1).name) or (0, 0)
    columns = weight[0] if int(unit.target.attributes.get("transB", 0)) else weight[1]
    if shape in ((), (1,), (columns,), (1, columns)):
        return None
    return Refusal(
        f"C has shape {list(shape or ())}, expected [{columns}]", "store one bias value per column"
    )


def matmul_no_vector(context: Context, unit: NodeUnit) -> Refusal | None:
    """A vector times a matrix has no counterpart."""
    ranks = [context.graph.rank(unit.input(position).name) for position in (0, 1)]
    if 1 in ranks and ranks != [1, 1]:
        return Refusal(
            f"MatMul of ranks {ranks[0]} x {ranks[1]}: a vector with a matrix", "reshape it to [1, K]"
        )
    return None


def dims_at_most_16384(context: Context, unit: NodeUnit) -> Refusal | None:
    """A limit of the Neural Engine."""
    shape = context.graph.shape(unit.input(0).name) or ()
    large = [dim for dim in shape if isinstance(dim, int) and dim > _MAX_CONV_DIM]
    return Refusal(f"input dimension {large[0]} is above {_MAX_CONV_DIM}") if large else None


def plain_transpose_shape(context: Context, unit: NodeUnit) -> Refusal | None:
    """output_shape and output_padding are not supported."""
    if "output_shape" in unit.target.attributes:
        return Refusal("output_shape is not supported", "use pads")
    if any(unit.target.attributes.get("output_padding", ())):
        return Refusal("output_padding is not supported")
    return None


def no_dilations(context: Context, unit: NodeUnit) -> Refusal | None:
    """Pooling windows without holes."""
    dilations = list(unit.target.attributes.get("dilations", ()))
    return Refusal(f"dilations are {dilations}, expected 1") if any(d != 1 for d in dilations) else None


def gather_ranks(context: Context, unit: NodeUnit) -> Refusal | None:
    """No scalar index, and a result of rank 5 at most."""
    data, index = (context.graph.rank(unit.input(position).name) for position in (0, 1))
    if index == 0:
        return Refusal("a scalar index is not supported", "use an index of shape [1] and a Reshape behind it")
    if data is None or index is None:
        return Refusal("data or indices have an unknown rank")
    if data + index - 1 > MAX_RANK:
        return Refusal(f"the result has rank {data + index - 1}, expected at most {MAX_RANK}")
    return None


def static_input(context: Context, unit: NodeUnit) -> Refusal | None:
    """Fully known shape."""
    if context.graph.static_shape(unit.input(0).name) is not None:
        return None
    return Refusal(
        "input 0 has no fixed shape", "fix the dimension: --dim NAME=SIZE here, a static export for the phone"
    )


def reshape_rank(context: Context, unit: NodeUnit) -> Refusal | None:
    """Rank 5 at most."""
    shape = context.graph.constant(unit.input(1).name)
    if shape is not None and shape.size > MAX_RANK:
        return Refusal(f"the result has rank {shape.size}, expected at most {MAX_RANK}")
    return None


def output_rank(context: Context, unit: NodeUnit) -> Refusal | None:
    """Rank 5 at most."""
    rank = context.graph.rank(unit.target.outputs[0])
    if rank is not None and rank > MAX_RANK:
        return Refusal(f"the result has rank {rank}, expected at most {MAX_RANK}")
    return None


def concat_channels(context: Context, unit: NodeUnit) -> Refusal | None:
    """A NeuralNetwork joins channels."""
    rank = context.graph.rank(unit.input(0).name) or 0
    axis = int(unit.target.attributes.get("axis", 0))
    if axis in (-3, rank - 3):
        return None
    return Refusal(f"axis is {axis}, expected -3 (channels)", "use the MLProgram format")


def not_empty_slice(context: Context, unit: NodeUnit) -> Refusal | None:
    """A slice of nothing."""
    shape = context.graph.static_shape(unit.target.outputs[0])
    return Refusal("the slice is empty") if shape is not None and 0 in shape else None


def pads_last_two(context: Context, unit: NodeUnit) -> Refusal | None:
    """Height and width only."""
    pads = context.graph.constant(unit.input(1).name) if unit.has_input(1) else None
    if pads is None:
        return Refusal("pads (input 1) must be a constant", "make it an initializer")
    if (pads < 0).any():
        return Refusal("negative pads", "use Slice to crop")
    rank = context.graph.rank(unit.input(0).name) or 0
    axes = context.graph.constant(unit.input(3).name) if unit.has_input(3) else np.arange(rank)
    if axes is None or rank < 2:
        return Refusal("needs an input of rank 2 or more")
    half = pads.size // 2
    if axes.size != half:
        return Refusal(f"{pads.size} pads for {axes.size} dimensions, expected two each")
    padded = {
        int(axis) % rank
        for axis, before, after in zip(axes, pads[:half], pads[half:], strict=True)
        if before or after
    }
    return None if padded <= {rank - 2, rank - 1} else Refusal("pads more than the last two dimensions")


def no_shape_end(context: Context, unit: NodeUnit) -> Refusal | None:
    """The whole shape."""
    return Refusal("attribute end is not supported") if "end" in unit.target.attributes else None


def crd_needs_static(context: Context, unit: NodeUnit) -> Refusal | None:
    """Column-row-depth order is built from Reshapes."""
    mode = _text(unit, "mode", "DCR")
    if mode == "CRD" and context.graph.static_shape(unit.input(0).name) is None:
        return Refusal("mode CRD needs fixed dimensions", "fix the dimensions or use DCR")
    return None


def _text(unit: NodeUnit, name: str, default: str) -> str:
    value = unit.target.attributes.get(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)


def resize_neural_network(context: Context, unit: NodeUnit) -> Refusal | None:
    """Asymmetric coordinates, linear or nearest with floor."""
    mode = _text(unit, "mode", "nearest")
    coordinates = _text(unit, "coordinate_transformation_mode", "half_pixel")
    nearest = _text(unit, "nearest_mode", "round_prefer_floor")
    if coordinates == "asymmetric" and (mode == "linear" or (mode == "nearest" and nearest == "floor")):
        return None
    return Refusal(f"{mode} with {coordinates} ({nearest}), expected asymmetric and floor", "use MLProgram")


def resize_program(context: Context, unit: NodeUnit) -> Refusal | None:
    """No cubic, no antialiasing."""
    mode = _text(unit, "mode", "nearest")
    if mode not in ("nearest", "linear"):
        return Refusal(f"mode is {mode}, expected nearest or linear")
    if int(unit.target.attributes.get("antialias", 0)):
        return Refusal("antialias=1 is not supported")
    return None


def resize_constant(context: Context, unit: NodeUnit) -> Refusal | None:
    """Known scales or sizes."""
    if int(unit.target.attributes.get("exclude_outside", 0)):
        return Refusal("exclude_outside=1 is not supported")
    for position in (2, 3):
        if unit.has_input(position) and not context.graph.is_constant(unit.input(position).name):
            return Refusal("scales and sizes must be constants", "make them initializers")
    return None


def grid_sample_mode(context: Context, unit: NodeUnit) -> Refusal | None:
    """All but cubic, and but linear reflection without aligned corners."""
    mode = _text(unit, "mode", "linear")
    if mode in ("cubic", "bicubic"):
        return Refusal(f"mode is {mode}, expected linear or nearest")
    reflection = _text(unit, "padding_mode", "zeros") == "reflection"
    if (
        mode in ("linear", "bilinear")
        and reflection
        and not int(unit.target.attributes.get("align_corners", 0))
    ):
        return Refusal("linear with reflection needs align_corners=1")
    return None
