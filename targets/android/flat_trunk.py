"""Linear layers as 2-D Gemms, and a trunk that stays 2-D between them.

NNAPI refuses MatMul of rank 3 by rank 2. Wrapping each in Reshape, Gemm, Reshape would work; carrying
`[sequence, hidden]` through the element-wise operators in between needs almost no Reshape at all.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeq.graph.edit import Editor, constant_of, static_shape
from edgeq.graph.passes.in_place import in_place
from edgeq.types import Array

ELEMENTWISE = frozenset(
    [
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Max",
        "Min",
        "Pow",
        "Neg",
        "Abs",
        "Exp",
        "Log",
        "Sqrt",
        "Erf",
        "Tanh",
        "Sigmoid",
        "Relu",
        "Gelu",
        "LayerNormalization",
        "Reciprocal",
        "Clip",
        "HardSigmoid",
        "LeakyRelu",
        "Elu",
    ]
)
"""Operators that act on each element, or on the last axis, so that leading axes may be merged."""


@in_place
def flatten_trunk(model: ir.Model) -> bool:
    """Rewrite a static-shape graph; the batch must be 1 wherever rows are merged."""
    return _Flattener(model).run()


class _Flattener:
    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.editor = Editor(model)
        self.flat: dict[ir.Value, ir.Value] = {}
        self.converted: set[ir.Node] = set()

    def run(self) -> bool:
        for node in list(self.model.graph):
            if node in self.converted:
                continue
            if _is_linear(node):
                self._linear(node)
            elif node.op_type in ELEMENTWISE:
                self._elementwise(node)
            elif node.op_type == "Reshape":
                self._reshape(node)
        self._restore_remaining()
        self.editor.finish()
        return bool(self.flat or self.converted)

    def _linear(self, node: ir.Node) -> None:
        """MatMul with a constant matrix (and the Add of its bias) as one Gemm."""
        data, weight = node.inputs[0], node.inputs[1]
        assert data is not None and weight is not None
        rows = self._rows(data, node)
        bias, output = _bias(node)
        inputs = [rows, weight] if bias is None else [rows, weight, bias]
        shape = ir.Shape([static_shape(rows)[0], static_shape(weight)[1]])
        name = str(node.name)
        node.name = f"{name}.matmul"
        product = self.editor.op("Gemm", inputs, name, before=node, shape=shape)
        self.converted.add(node)
        if bias is not None:
            self.converted.update(filter(None, [output.producer()]))
        if len(output.shape or ()) == 2:
            self.editor.replace(output, product)
        else:
            self.flat[output] = product

    def _rows(self, value: ir.Value, before: ir.Node) -> ir.Value:
        """`[rows, channels]` of an activation: its flat twin, itself, or a new Reshape."""
        if value in self.flat:
            return self.flat[value]
        dims = static_shape(value)
        if len(dims) == 2:
            return value
        source = value
        producer = value.producer()
        if producer is not None and producer.op_type == "Reshape" and producer.inputs[0] is not None:
            source = self.flat.get(producer.inputs[0], producer.inputs[0])
        target = [int(np.prod(dims[:-1])), dims[-1]]
        shape = self.editor.constant(np.array(target, np.int64), f"{value.name}.rows.shape")
        self.flat[value] = self.editor.op(
            "Reshape", [source, shape], f"{value.name}.rows", before=before, shape=ir.Shape(target)
        )
        return self.flat[value]

    def _elementwise(self, node: ir.Node) -> None:
        output = node.outputs[0]
        dims = static_shape(output)
        if len(dims) != 3 or dims[0] != 1 or not any(value in self.flat for value in node.inputs):
            return
        inputs = [self._operand(value, dims) for value in node.inputs]
        if any(new is None and old is not None for new, old in zip(inputs, node.inputs, strict=True)):
            return
        name = str(node.name)
        node.name = f"{name}.3d"
        self.flat[output] = self.editor.op(
            node.op_type,
            inputs,
            name,
            before=node,
            domain=node.domain,
            attributes={key: attr.value for key, attr in node.attributes.items()},
            shape=ir.Shape(dims[1:]),
        )
        self.converted.add(node)

    def _operand(self, value: ir.Value | None, dims: list[int]) -> ir.Value | None:
        """The operand as it broadcasts against `[sequence, hidden]`, or None where it cannot."""
        if value is None:
            return None
        if value in self.flat:
            return self.flat[value]
        data = constant_of(value)
        if data is not None:
            return value if data.ndim < 2 else self._constant_rows(value, data)
        shape = static_shape(value)
        if len(shape) == 3 and shape[0] == 1:
            target = self.editor.constant(np.array(shape[1:], np.int64), f"{value.name}.rows.shape")
            before = next(node for node in self.model.graph if value in node.inputs)
            self.flat[value] = self.editor.op(
                "Reshape", [value, target], f"{value.name}.rows", before=before, shape=ir.Shape(shape[1:])
            )
            return self.flat[value]
        return None

    def _constant_rows(self, value: ir.Value, data: Array) -> ir.Value | None:
        if data.ndim == 3 and data.shape[0] == 1:
            self.flat[value] = self.editor.constant(data[0], f"{value.name}.rows")
            return self.flat[value]
        return None

    def _reshape(self, node: ir.Node) -> None:
        """A Reshape depends on element order only: read the flat twin instead."""
        value = node.inputs[0]
        if value in self.flat:
            shape = self.editor.constant(
                np.array(static_shape(node.outputs[0]), np.int64), f"{node.name}.shape"
            )
            node.replace_input_with(0, self.flat[value])
            node.replace_input_with(1, shape)
            node.attributes.pop("allowzero", None)

    def _restore_remaining(self) -> None:
        """Whoever still needs `[1, sequence, hidden]` (pooling over axis 1, graph outputs) gets it by one Reshape."""
        for value, rows in self.flat.items():
            if value.const_value is not None:
                continue
            readers = [
                node
                for node in value.consumers()
                if node not in self.converted and node is not rows.producer()
            ]
            producer = value.producer()
            if producer not in self.converted or (not readers and not value.is_graph_output()):
                continue
            shape = self.editor.constant(np.array(static_shape(value), np.int64), f"{value.name}.shape")
            before = readers[0] if readers else producer
            restored = self.editor.op(
                "Reshape",
                [rows, shape],
                f"{value.name}.batched",
                before=before,
                shape=value.shape,
            )
            self.editor.replace(value, restored)


def _is_linear(node: ir.Node) -> bool:
    if node.op_type != "MatMul" or node.inputs[0] is None or node.inputs[1] is None:
        return False
    weight = constant_of(node.inputs[1])
    return weight is not None and weight.ndim == 2 and constant_of(node.inputs[0]) is None


def _bias(node: ir.Node) -> tuple[ir.Value | None, ir.Value]:
    product = node.outputs[0]
    users = product.consumers()
    if len(users) == 1 and users[0].op_type == "Add" and not product.is_graph_output():
        other = users[0].inputs[1] if users[0].inputs[0] is product else users[0].inputs[0]
        data = constant_of(other)
        if data is not None and data.ndim == 1:
            return other, users[0].outputs[0]
    return None, product
