"""Nodes that ONNX itself does not allow: too few inputs, attributes of another type.

ONNX Runtime rejects the whole model for one of them; a report that names the node helps more than none.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from edgeq.targets.placement.model_view import Node

_CONTRIB_INPUTS = {
    "QLinearAdd": 7,
    "QLinearMul": 7,
    "QLinearSigmoid": 4,
    "QLinearAveragePool": 4,
    "QLinearConv": 8,
    "QuickGelu": 1,
    "FusedConv": 2,
    "Gelu": 1,
    "QuantizeLinear": 2,
    "DequantizeLinear": 2,
}
FIX = "check the model with onnx.checker"
_PYTHON_TYPES: dict[str, type] = {"INT": int, "FLOAT": float, "STRING": bytes}


def malformed(node: Node) -> str | None:
    """What breaks the operator's own definition; None for operators that are not known here."""
    schema = _schema(node.op_type, node.since_version, node.domain)
    if schema is None:
        needed = _CONTRIB_INPUTS.get(node.op_type, 0) if node.domain else 1
        required, at_most = list(range(needed)), None
    else:
        options = [str(formal.option).rpartition(".")[2] for formal in schema.inputs]
        required = [i for i, option in enumerate(options) if option == "Single" and i < schema.min_input]
        at_most = schema.max_input
    missing = next((position for position in required if not node.has_input(position)), None)
    if missing is not None:
        return _broken(node, f"input {missing} is missing")
    if at_most is not None and len(node.inputs) > at_most:
        return _broken(node, f"{len(node.inputs)} inputs, expected at most {at_most}")
    if not node.outputs or not node.outputs[0]:
        return _broken(node, "output 0 is missing")
    return _check_attributes(node, schema)


def _broken(node: Node, problem: str) -> str:
    return f"not a valid {node.op_type}: {problem}"


def _check_attributes(node: Node, schema: Any) -> str | None:
    if schema is None:
        return None
    for name, attribute in schema.attributes.items():
        if name not in node.attributes:
            if attribute.required:
                return _broken(node, f"attribute {name} is missing")
        elif not _has_type(node.attributes[name], str(attribute.type).rpartition(".")[2]):
            return _broken(node, f"attribute {name} is not of type {attribute.type}")
    return None


def _has_type(value: Any, kind: str) -> bool:
    if kind in _PYTHON_TYPES:
        return isinstance(value, _PYTHON_TYPES[kind])
    if kind.endswith("S") and kind[:-1] in _PYTHON_TYPES:
        return isinstance(value, list) and all(isinstance(entry, _PYTHON_TYPES[kind[:-1]]) for entry in value)
    return True


@lru_cache(maxsize=4096)
def _schema(op_type: str, since_version: int, domain: str) -> Any:
    import onnx

    try:
        return onnx.defs.get_schema(op_type, since_version, domain)
    except onnx.defs.SchemaError:
        return None
