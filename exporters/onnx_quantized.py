"""What says of an ONNX file that its weights are integers already: operators, or codes times a scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

OPERATORS = (
    "QLinear", "QuantizeLinear", "DequantizeLinear", "DynamicQuantize", "MatMulInteger", "ConvInteger", "MatMulNBits",
    "MatMulBnb4", "MatMulFpQ4", "GatherBlockQuantized", "QAttention", "QGemm", "QEmbed", "QOrdered", "QMoE",
)  # fmt: skip
"""Beginnings of operator names that only quantized models have."""

CODE_TYPES = (
    "INT8", "UINT8", "INT16", "UINT16", "INT4", "UINT4", "INT2", "UINT2",
    "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0", "FLOAT4E2M1",
)  # fmt: skip
"""Types in which weights are stored as codes; ids and shapes are INT32 or INT64, masks BOOL."""

FEWEST_CODES = 256
"""Of a tensor with one dimension."""

MOVING = ("Gather", "Transpose", "Reshape", "Slice", "Unsqueeze", "Squeeze", "Concat", "Identity")
"""Operators through which codes go unchanged before they are cast to numbers."""


def quantized_by(model: ir.Model) -> list[str]:
    """Names of what shows that a file is quantized already; empty for a float one."""
    operators = {node.op_type for node in model.graph.all_nodes() if node.op_type.startswith(OPERATORS)}
    codes = {
        f"{kind} weights cast to float"
        for node in model.graph.all_nodes()
        if node.op_type == "Cast" and _is_float(node) and (kind := _codes(node.inputs[0]))
    }
    return [*sorted(operators), *sorted(codes)]


def _is_float(node: ir.Node) -> bool:
    import onnx_ir as ir

    return ir.DataType(node.attributes["to"].value).is_floating_point()


def _codes(value: ir.Value | None) -> str | None:
    """The type of a stored matrix that a value moves about, when it is one of codes."""
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "Constant":
            tensor = node.attributes["value"].value if "value" in node.attributes else None
            return _code_type(tensor)
        if node.op_type not in MOVING:
            return None
        value = node.inputs[0]
    return _code_type(value.const_value) if value is not None else None


def _code_type(tensor: ir.TensorProtocol | None) -> str | None:
    if tensor is None or tensor.dtype.name not in CODE_TYPES:
        return None
    # Codes packed into a row are many; a few numbers in a row are a setting.
    return tensor.dtype.name if len(tensor.shape) > 1 or tensor.size >= FEWEST_CODES else None
