"""Constant nodes as initializers: ONNX Runtime converts them on load, so a predictor must too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

_NUMPY_FORMS: dict[str, Any] = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


def lifted_constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor a Constant node holds, named by its output; None for any other node (and sparse values)."""
    from onnx import helper, numpy_helper

    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or not node.attribute:
        return None
    attribute = node.attribute[0]
    if attribute.name == "value":
        return attribute.t
    value = helper.get_attribute_value(attribute)
    if attribute.name in _NUMPY_FORMS:
        return numpy_helper.from_array(np.asarray(value, _NUMPY_FORMS[attribute.name]), node.output[0])
    if attribute.name in ("value_string", "value_strings"):
        return numpy_helper.from_array(np.asarray(value, dtype=object), node.output[0])
    return None
