"""What to write instead of an operator that an accelerator does not take."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_LAYER_NORM = (
    "write it as ReduceMean, Sub, Mul(d, d), ReduceMean, Add, Sqrt, Div, Mul, Add "
    "(Mul, not Pow, or ONNX Runtime fuses it back)"
)
_GELU = "use the tanh form: h = 0.5x; h * (1 + tanh(h * (a + b*h*h)))"
_STATIC = "fix all dimensions (--dim NAME=SIZE) so that it folds into constants"
_ATTENTION = "write attention as Transpose, MatMul, Softmax(axis=-1), MatMul on rank 4"
_MASK = "make the mask a float32 input and add (mask - 1) * 1e4"
_REDUCE = "use ReduceMean times a constant"
_INT8_FORM = "quantize statically in QDQ form (uint8 activations, per-tensor weights)"

NNAPI_FIXES: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(
            ("LayerNormalization", "SkipLayerNormalization", "EmbedLayerNormalization"), _LAYER_NORM
        ),
        **dict.fromkeys(("SimplifiedLayerNormalization", "RMSNormalization"), _LAYER_NORM),
        **dict.fromkeys(("Gelu", "Erf", "FastGelu", "BiasGelu", "QuickGelu"), _GELU),
        **dict.fromkeys(("Attention", "MultiHeadAttention", "GroupQueryAttention"), _ATTENTION),
        **dict.fromkeys(("Where", "Equal", "Not", "Less", "Greater", "And", "Or"), _MASK),
        **dict.fromkeys(
            ("Shape", "Size", "Range", "ConstantOfShape", "Expand", "Tile", "Trilu", "CumSum"), _STATIC
        ),
        **dict.fromkeys(("ReduceSum", "ReduceMax", "ReduceL2", "LpNormalization"), _REDUCE),
        **dict.fromkeys(
            ("MatMulInteger", "DynamicQuantizeLinear", "ConvInteger", "DynamicQuantizeMatMul", "QAttention"),
            _INT8_FORM,
        ),
        **dict.fromkeys(
            ("MatMulNBits", "GatherBlockQuantized"),
            "keep weights behind DequantizeLinear, load with session.disable_quant_qdq=1 (folds to float)",
        ),
        "Reciprocal": "use Div with a constant 1",
        **dict.fromkeys(
            ("HardSwish", "HardSigmoid", "Mish", "Sum", "Mean"), "write it with Mul, Add, Max, Min, Div"
        ),
        **dict.fromkeys(
            ("Einsum", "GatherElements", "GatherND", "ScatterND", "TopK", "ArgMax"),
            "restructure the graph, or keep it after the accelerated part, at the end of the graph",
        ),
        **dict.fromkeys(("If", "Loop", "Scan"), "export without control flow: fixed shapes and no branches"),
        "ReduceMin": _REDUCE,
        "Dropout": "export in inference mode",
    }
)
_CORE_ML_QUANTIZED = (
    "the provider has no quantized operators: load with session.disable_quant_qdq=1 "
    "(folds weights to float), or build an .mlpackage (edgeq export --target coreml)"
)
COREML_FIXES: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(
            ("QuantizeLinear", "DequantizeLinear", "MatMulNBits", "MatMulInteger", "DynamicQuantizeLinear"),
            _CORE_ML_QUANTIZED,
        ),
        **dict.fromkeys(("Attention", "MultiHeadAttention", "GroupQueryAttention"), _ATTENTION),
        **dict.fromkeys(("Equal", "Not", "Less", "Greater", "Or"), _MASK),
        **dict.fromkeys(("Size", "Range", "ConstantOfShape", "Expand", "Trilu", "CumSum"), _STATIC),
        **dict.fromkeys(
            ("SkipLayerNormalization", "EmbedLayerNormalization"), "use Add and LayerNormalization"
        ),
        **dict.fromkeys(("FastGelu", "BiasGelu"), "use Gelu or the Erf form"),
        **dict.fromkeys(("If", "Loop", "Scan"), "export without control flow: fixed shapes and no branches"),
        "ReduceL2": "use Mul, ReduceSum, Sqrt",
    }
)
STATIC_INPUT_FIX = "fix the dimension: --dim NAME=SIZE here, a static export for the phone"
INPUT_DTYPE_FIXES: Mapping[str, str] = MappingProxyType(
    {
        "int64": "use int32 or float32 graph inputs; fold shape arithmetic into constants",
        "float16": "keep the graph in float32; the accelerator converts by itself",
        "bool": _MASK,
        "int8": "quantize activations to uint8",
    }
)
