"""Small models from a line of data: inputs as `f32[2,3]`, constants as arrays."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

ELEMENT_TYPES = {
    "f32": TensorProto.FLOAT,
    "f16": TensorProto.FLOAT16,
    "f64": TensorProto.DOUBLE,
    "i32": TensorProto.INT32,
    "i64": TensorProto.INT64,
    "u8": TensorProto.UINT8,
    "i8": TensorProto.INT8,
    "b": TensorProto.BOOL,
}


def value_info(name: str, spec: str) -> onnx.ValueInfoProto:
    dtype, dims = re.fullmatch(r"(\w+)\[(.*)\]", spec).groups()
    shape = [int(dim) if dim.isdigit() else dim for dim in dims.split(",") if dim]
    return helper.make_tensor_value_info(name, ELEMENT_TYPES[dtype], shape)


class ModelBuilder:
    """Collects the parts of a model; every constant gets a name of its own."""

    def __init__(self, opset: int = 17) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.constants: list[onnx.TensorProto] = []

    def value(self, spec: Any) -> str:
        """A graph input (`f32[2,3]`), a constant (array), an input left out (None), or a name ("=name")."""
        if spec is None:
            return ""
        if isinstance(spec, str) and spec.startswith("="):
            return spec[1:]
        if isinstance(spec, str):
            name = f"x{len(self.inputs)}"
            self.inputs.append(value_info(name, spec))
            return name
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(spec), name))
        return name

    def node(
        self, op: str, inputs: Sequence[Any], *, outputs: int = 1, domain: str = "", **attributes: Any
    ) -> str:
        name = f"{op}_{len(self.nodes)}"
        names = [self.value(spec) for spec in inputs]
        out = [f"{name}.{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op, names, out, name, domain=domain, **attributes))
        return out[0]

    def dq(self, spec: Any, scale: Any, zero: Any, **attributes: Any) -> str:
        return self.node("DequantizeLinear", [spec, scale, zero], **attributes)

    def q(self, name: str, scale: Any, zero: Any) -> str:
        return self.node("QuantizeLinear", [f"={name}", scale, zero])

    def model(self, *outputs: str) -> onnx.ModelProto:
        names = outputs or [name for node in self.nodes[-1:] for name in node.output]
        graph = helper.make_graph(
            self.nodes, "g", self.inputs, [onnx.ValueInfoProto(name=name) for name in names], self.constants
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.fixture
def builder() -> Callable[..., ModelBuilder]:
    return ModelBuilder
