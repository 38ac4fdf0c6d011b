"""ONNX Runtime's Core ML execution provider: which operators it takes. One row per operator and format.

Read from ONNX Runtime 1.27, the operator list compared with 1.32. `level` is the Core ML version
(5 = iOS 15 and macOS 12, 6 = iOS 16 and macOS 13).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edgeq.targets.placement import coreml_checks as check
from edgeq.targets.placement.rules import Attribute, OpRule

ML_TYPES = ("float32", "float16", "int64")
"""What an MLProgram takes as input 0 unless a row says otherwise; int64 is carried as int32 on the device."""
_ML_INTEGERS = (*ML_TYPES, "int32")
_MIN_VERSION = 5
_4D = (4, 4)
_2D = (2, 2)
_REDUCE = (check.constant_axes,)
_REDUCE_AXES: Mapping[int, str] = MappingProxyType({1: "axes"})


def _rule(**fields: object) -> OpRule:
    return OpRule(_MIN_VERSION, **fields)  # type: ignore[arg-type]


def _ml(**fields: object) -> OpRule:
    return _rule(**({"dtypes": {0: ML_TYPES}} | fields))


def _both(names: tuple[str, ...], **fields: object) -> dict[str, tuple[OpRule | None, OpRule | None]]:
    return {name: (_rule(**fields), _ml(**fields)) for name in names}


def _program(names: tuple[str, ...], **fields: object) -> dict[str, tuple[OpRule | None, OpRule | None]]:
    return {name: (None, _ml(**fields)) for name in names}


_GEMM: dict[str, object] = {
    "constants": {1: "B", 2: "C"},
    "ranks": {0: _2D, 1: _2D},
    "attributes": {
        "transA": Attribute(0, (0,)),
        "alpha": Attribute(1.0, (1.0,)),
        "beta": Attribute(1.0, (1.0,)),
    },
    "checks": (check.gemm_bias,),
}
_NORM: dict[str, object] = {
    "constants": {1: "scale", 2: "bias"},
    "attributes": {"stash_type": Attribute(1, (1,))},
    "dtypes": {0: ("float32", "float16")},
    "checks": (check.same_dtype, check.one_output),
}
_POOL: dict[str, object] = {
    "ranks": {0: _4D},
    "attributes": {"ceil_mode": Attribute(0, (0,)), "storage_order": Attribute(0, (0,))},
    "checks": (check.one_output, check.no_dilations),
}
_SLICE: dict[str, object] = {
    "constants": {1: "starts", 2: "ends", 3: "axes", 4: "steps"},
    "min_opset": 10,
    "checks": (check.static_input, check.not_empty_slice),
}

_RULES: dict[str, tuple[OpRule | None, OpRule | None]] = {
    # Arithmetic
    **_both(("Add", "Sub", "Mul", "Div"), min_opset=7),
    **_both(("Pow",), min_opset=7, checks=(check.same_dtype,)),
    **_program(("Max",)),
    # Element by element
    **_both(("Sqrt", "Reciprocal", "Sigmoid", "Tanh", "Relu", "LeakyRelu", "HardSigmoid")),
    **_both(("PRelu",), constants={1: "slope"}),
    **_program(("Erf", "Exp", "Round", "Ceil", "Sin", "Cos", "Gelu", "Elu", "Softplus", "QuickGelu")),
    **_both(("Clip",), constants={1: "min", 2: "max"}, checks=(check.clip_range,)),
    "Cast": (
        _rule(dtypes={0: ("int64",)}, checks=(check.cast_after_argmax,)),
        _ml(dtypes={0: _ML_INTEGERS}, checks=(check.cast_types, check.has_producer)),
    ),
    **_program(("Identity",), dtypes={0: _ML_INTEGERS}),
    **_program(("Where",), dtypes={1: ("float32", "float16"), 2: ("float32", "float16")}),
    **_program(("And",), dtypes={0: ("bool",), 1: ("bool",)}),
    # Reductions, normalization
    **_both(("Softmax",), checks=(check.softmax_static_before_13,)),
    **_both(("ReduceSum", "ReduceMean"), constants=_REDUCE_AXES, checks=_REDUCE),
    **_program(("ReduceMax", "ReduceMin", "ReduceProd"), constants=_REDUCE_AXES, checks=_REDUCE),
    **_both(("ArgMax",), attributes={"select_last_index": Attribute(0, (0,))}),
    **_program(("LayerNormalization", "InstanceNormalization", "GroupNormalization"), **_NORM),
    **_both(
        ("BatchNormalization",),
        ranks={0: _4D},
        constants={1: "scale", 2: "B", 3: "mean", 4: "var"},
        checks=(check.one_output,),
    ),
    "LRN": (_rule(ranks={0: _4D}), None),
    # Linear algebra
    "MatMul": (_rule(ranks={0: _2D, 1: _2D}, constants={1: "B"}), _ml(checks=(check.matmul_no_vector,))),
    **_both(("Gemm",), **_GEMM),
    "Conv": (
        _rule(constants={1: "weight", 2: "bias"}, ranks={1: (3, 4)}, checks=(check.dims_at_most_16384,)),
        _ml(constants={2: "bias"}, ranks={1: (3, 4)}, checks=(check.dims_at_most_16384,)),
    ),
    **_program(("FusedConv",), constants={2: "bias"}, ranks={1: (3, 4)}, checks=(check.dims_at_most_16384,)),
    **_program(
        ("ConvTranspose",),
        constants={1: "weight", 2: "bias"},
        attributes={"auto_pad": Attribute("NOTSET", ("NOTSET", "VALID"))},
        checks=(check.plain_transpose_shape, check.dims_at_most_16384),
    ),
    # Moving data
    "Gather": (
        _rule(dtypes={0: ("float32", "int64"), 1: ("int32", "int64")}, checks=(check.gather_ranks,)),
        _ml(
            dtypes={0: ML_TYPES, 1: ("int32", "int64")},
            level_of=check.version_6_for_half,
            checks=(check.gather_ranks,),
        ),
    ),
    **_program(("GatherND",), attributes={"batch_dims": Attribute(0, (0,))}),
    **_both(
        ("Reshape",), constants={1: "shape"}, min_opset=5, checks=(check.static_input, check.reshape_rank)
    ),
    "Flatten": (_rule(), None),
    **_both(("Squeeze",), constants={1: "axes"}, checks=(check.output_rank,)),
    **_program(("Unsqueeze",), constants={1: "axes"}, checks=(check.output_rank,)),
    **_both(("Transpose",)),
    "Concat": (
        _rule(ranks={0: _4D}, checks=(check.concat_channels, check.at_least_two_inputs)),
        _ml(checks=(check.at_least_two_inputs,)),
    ),
    "Slice": (
        _rule(dtypes={0: ("float32", "int64")}, **_SLICE),
        _ml(level_of=check.version_6_for_half, **_SLICE),
    ),
    **_both(("Split",), constants={1: "split"}, checks=(check.at_least_two_outputs,)),
    "Pad": (
        _rule(
            constants={1: "pads", 2: "constant_value", 3: "axes"},
            attributes={"mode": Attribute("constant", ("constant",))},
            checks=(check.pads_last_two,),
        ),
        _ml(
            constants={1: "pads", 2: "constant_value", 3: "axes"},
            attributes={"mode": Attribute("constant", ("constant", "reflect"))},
            checks=(check.pads_last_two,),
        ),
    ),
    **_program(("Tile",)),
    "Shape": (
        _rule(attributes={"start": Attribute(0, (0,))}, checks=(check.no_shape_end,)),
        _ml(dtypes={0: _ML_INTEGERS}),
    ),
    # Images
    **_both(("AveragePool", "MaxPool"), **_POOL),
    **_both(("GlobalAveragePool", "GlobalMaxPool"), ranks={0: _4D}),
    "DepthToSpace": (
        _rule(ranks={0: _4D}, attributes={"mode": Attribute("DCR", ("DCR",))}),
        _ml(ranks={0: _4D}, checks=(check.crd_needs_static,)),
    ),
    "Resize": (
        _rule(ranks={0: _4D}, min_opset=11, checks=(check.resize_neural_network, check.resize_constant)),
        _ml(ranks={0: _4D}, min_opset=11, checks=(check.resize_program, check.resize_constant)),
    ),
    **_program(("GridSample",), ranks={0: _4D}, checks=(check.grid_sample_mode,)),
}

COREML_RULES: Mapping[str, Mapping[str, OpRule]] = MappingProxyType(
    {
        "NeuralNetwork": MappingProxyType({op: pair[0] for op, pair in _RULES.items() if pair[0]}),
        "MLProgram": MappingProxyType({op: pair[1] for op, pair in _RULES.items() if pair[1]}),
    }
)
"""Rules by model format, matched on the operator type alone."""

EMPTY_INPUT_OPS = frozenset({"Resize"})
"""Operators whose optional inputs may be empty tensors."""
