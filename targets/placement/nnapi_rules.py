"""ONNX Runtime's NNAPI execution provider: which single operators it takes. One row per operator.

Read from ONNX Runtime 1.21 and compared with 1.27: the rules are the same but for the newest operator version
(21, then 25) and for external weights (refused, then accepted).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edgeq.targets.placement import nnapi_checks as check
from edgeq.targets.placement.rules import FLOAT, Attribute, OpRule

U8 = ("uint8",)
FLOAT_OR_U8 = ("float32", "uint8")
_NONE: Mapping[int, tuple[str, ...]] = MappingProxyType({})

_UP_TO_4 = (0, 4)
_1_TO_4 = (1, 4)
_2D = (2, 2)
_4D = (4, 4)


def _binary(level: int) -> OpRule:
    return OpRule(level, min_opset=7, ranks={0: _UP_TO_4, 1: _UP_TO_4})


def _pool(op_types: tuple[str, ...] = FLOAT) -> OpRule:
    return OpRule(
        28,
        dtypes={0: op_types},
        ranks={0: _4D},
        attributes={
            "count_include_pad": Attribute(0, (0,)),
            "ceil_mode": Attribute(0, (0,)),
            "storage_order": Attribute(0, (0,)),
        },
        checks=(check.no_pool_dilations, check.one_output, check.two_dimensional_kernel),
    )


_ELEMENTWISE_29 = OpRule(29, min_opset=6)

NNAPI_RULES: Mapping[str, OpRule] = MappingProxyType(
    {
        # Arithmetic
        "Add": _binary(27),
        "Mul": _binary(27),
        "Sub": _binary(28),
        "Div": _binary(28),
        "Pow": OpRule(29, min_opset=7, dtypes={0: FLOAT, 1: FLOAT}, ranks={0: _UP_TO_4, 1: _UP_TO_4}),
        "PRelu": OpRule(29, ranks={0: _UP_TO_4, 1: _UP_TO_4}),
        "Max": OpRule(29, min_opset=6, checks=(check.exactly_two_inputs,)),
        "Min": OpRule(29, min_opset=6, checks=(check.exactly_two_inputs,)),
        # Element by element
        "Relu": OpRule(27),
        "Clip": OpRule(27, checks=(check.clip_is_relu6_or_relu1,)),
        "Elu": OpRule(30, min_opset=6),
        "LeakyRelu": OpRule(27, built_level=29, min_opset=6, ranks={0: _1_TO_4}),
        "Sigmoid": OpRule(27, min_opset=6, ranks={0: _1_TO_4}),
        "Tanh": OpRule(27, min_opset=6),
        "Floor": OpRule(27, min_opset=6),
        "Abs": _ELEMENTWISE_29,
        "Exp": _ELEMENTWISE_29,
        "Log": _ELEMENTWISE_29,
        "Neg": _ELEMENTWISE_29,
        "Sin": _ELEMENTWISE_29,
        "Sqrt": _ELEMENTWISE_29,
        "Identity": OpRule(27),
        "Cast": OpRule(29, min_opset=6, checks=(check.cast_to_float_or_int32,)),
        # Reductions, normalization
        "Softmax": OpRule(28, level_of=check.softmax_level, checks=(check.softmax_rank,)),
        "ReduceMean": OpRule(28, ranks={0: _1_TO_4}, checks=(check.constant_reduce_axes,)),
        "BatchNormalization": OpRule(
            27,
            min_opset=7,
            ranks={0: _1_TO_4},
            constants={1: "scale", 2: "B", 3: "mean", 4: "var"},
            attributes={"spatial": Attribute(1, (1,)), "training_mode": Attribute(0, (0,))},
            checks=(check.one_output,),
        ),
        "LRN": OpRule(28, ranks={0: _4D}),
        # Linear algebra
        "MatMul": OpRule(27, level_of=check.matmul_level, checks=(check.matmul_shapes,)),
        "Gemm": OpRule(
            27,
            level_of=check.gemm_level,
            min_opset=7,
            ranks={0: _2D, 1: _2D},
            attributes={
                "transA": Attribute(0, (0,)),
                "alpha": Attribute(1.0, (1.0,)),
                "beta": Attribute(1.0, (1.0,)),
            },
            checks=(check.gemm_weight_constant, check.gemm_bias_shape),
        ),
        "Conv": OpRule(28, constants={1: "weight"}, checks=(check.conv_2d, check.conv_dilations)),
        # Moving data
        "Gather": OpRule(29, ranks={0: _1_TO_4}, checks=(check.no_zero_dim, check.gather_indices)),
        "Reshape": OpRule(
            27, min_opset=5, ranks={0: _1_TO_4}, constants={1: "shape"}, checks=(check.reshape_zeros,)
        ),
        "Flatten": OpRule(27, ranks={0: _1_TO_4}),
        "Squeeze": OpRule(28, ranks={0: _1_TO_4}, constants={1: "axes"}),
        "Unsqueeze": OpRule(27, ranks={0: _1_TO_4}, constants={1: "axes"}),
        "Transpose": OpRule(28, dtypes={0: FLOAT_OR_U8}, ranks={0: _1_TO_4}),
        "Concat": OpRule(27, dtypes={0: FLOAT_OR_U8}, ranks={0: _1_TO_4}),
        "Slice": OpRule(
            28,
            min_opset=10,
            ranks={0: _1_TO_4},
            constants={1: "starts", 2: "ends", 3: "axes", 4: "steps"},
            checks=(check.no_zero_dim,),
        ),
        "Split": OpRule(29, min_opset=13, constants={1: "split"}, checks=(check.even_split,)),
        "Pad": OpRule(
            29,
            min_opset=11,
            ranks={0: _1_TO_4},
            constants={1: "pads", 2: "constant_value"},
            attributes={"mode": Attribute("constant", ("constant",))},
            checks=(check.no_zero_dim, check.no_negative_pads),
        ),
        # Images
        "AveragePool": _pool(),
        "MaxPool": _pool(FLOAT_OR_U8),
        "GlobalAveragePool": OpRule(28, ranks={0: _4D}),
        "GlobalMaxPool": OpRule(28, ranks={0: _4D}),
        "DepthToSpace": OpRule(27, ranks={0: _4D}, attributes={"mode": Attribute("DCR", ("DCR",))}),
        "Resize": OpRule(
            29,
            level_of=check.resize_level,
            min_opset=11,
            dtypes={0: FLOAT_OR_U8},
            ranks={0: _4D},
            checks=(check.resize_mode, check.resize_scales),
        ),
        # Quantization
        "QuantizeLinear": OpRule(29, dtypes=_NONE, checks=(check.q_output_u8, check.per_tensor_constants)),
        "DequantizeLinear": OpRule(27, dtypes=_NONE, checks=(check.dq_input_u8, check.per_tensor_constants)),
        "QLinearConv": OpRule(
            28,
            dtypes={0: U8, 3: ("uint8", "int8")},
            constants=check.QLINEAR_BINARY_CONSTANTS | {3: "weight"},
            checks=(check.standard_domain, check.qlinear_conv_2d),
        ),
        "QLinearMatMul": OpRule(
            27,
            dtypes={0: U8, 3: ("uint8", "int8")},
            ranks={0: _2D, 3: _2D},
            constants=check.QLINEAR_BINARY_CONSTANTS | {3: "B"},
            checks=(check.qlinear_per_tensor,),
        ),
        "QLinearAdd": OpRule(
            27,
            dtypes={0: U8, 3: U8},
            ranks={0: _UP_TO_4, 3: _UP_TO_4},
            constants=check.QLINEAR_BINARY_CONSTANTS,
        ),
        "QLinearMul": OpRule(
            27,
            dtypes={0: U8, 3: U8},
            ranks={0: _UP_TO_4, 3: _UP_TO_4},
            constants=check.QLINEAR_BINARY_CONSTANTS,
        ),
        "QLinearSigmoid": OpRule(
            27,
            dtypes={0: U8},
            constants=check.QLINEAR_UNARY_CONSTANTS,
            checks=(check.qlinear_sigmoid_scale,),
        ),
        "QLinearAveragePool": OpRule(
            28,
            dtypes={0: U8},
            ranks={0: _4D},
            constants=check.QLINEAR_UNARY_CONSTANTS,
            attributes={"count_include_pad": Attribute(0, (0,)), "ceil_mode": Attribute(0, (0,))},
            checks=(check.qlinear_equal_quantization, check.two_dimensional_kernel),
        ),
    }
)
"""Matched on the operator type alone; the provider does not look at the domain."""
