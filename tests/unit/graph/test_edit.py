"""Names stay unique, readers follow, biases and constants are found."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.errors import UnsupportedError
from edgeq.graph.edit import Editor, bias_input, constant_of, only_user, static_shape


@pytest.fixture
def model() -> ir.Model:
    x = ir.Value(name="x", shape=ir.Shape([2, 3]), type=ir.TensorType(ir.DataType.FLOAT))
    weight = ir.Value(name="w", const_value=ir.tensor(np.ones((3, 4), np.float32), name="w"))
    bias = ir.Value(name="b", const_value=ir.tensor(np.ones(4, np.float32), name="b"))
    product = ir.node("MatMul", [x, weight], name="linear")
    product.outputs[0].name = "product"
    shifted = ir.node("Add", [product.outputs[0], bias], name="add")
    shifted.outputs[0].name = "y"
    graph = ir.Graph(
        [x],
        [shifted.outputs[0]],
        nodes=[product, shifted],
        initializers=[weight, bias],
        opset_imports={"": 20},
    )
    return ir.Model(graph, ir_version=10)


def node(model: ir.Model, name: str) -> ir.Node:
    return next(item for item in model.graph if item.name == name)


def test_constants_get_unique_names(model: ir.Model) -> None:
    editor = Editor(model)
    assert [editor.constant(np.float32(1), "w").name, editor.constant(np.float32(1), "w").name] == [
        "w_1",
        "w_2",
    ]


def test_an_operator_keeps_its_name_even_when_a_value_has_it(model: ir.Model) -> None:
    made = Editor(model).op("Neg", [node(model, "linear").outputs[0]], "product", before=node(model, "add"))
    assert made.producer().name == "product" and made.name == "product_1"


def test_a_second_node_of_the_same_name_is_refused(model: ir.Model) -> None:
    with pytest.raises(ValueError, match="a node named `add`"):
        Editor(model).op("Neg", [model.graph.inputs[0]], "add", before=node(model, "linear"))


def test_replacing_an_output_keeps_its_public_name(model: ir.Model) -> None:
    editor = Editor(model)
    last = node(model, "add")
    doubled = editor.op(
        "Mul", [last.outputs[0], editor.constant(np.float32(2), "two")], "double", before=last
    )
    doubler = doubled.producer()
    editor.take_over(last.outputs[0], doubled, doubler)
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert model.graph.outputs[0] is doubled and doubler.inputs[0] is last.outputs[0]


def test_take_over_spares_only_the_reader_that_leads_there(model: ir.Model) -> None:
    editor = Editor(model)
    product = node(model, "linear").outputs[0]
    negated = editor.op("Neg", [product], "negated", before=node(model, "add"))
    editor.take_over(product, negated, node(model, "negated"))
    assert node(model, "add").inputs[0] is negated and node(model, "negated").inputs[0] is product


def test_bias_is_found_and_only_a_bias(model: ir.Model) -> None:
    assert bias_input(node(model, "linear")) == (node(model, "add"), 1)
    reshape = Editor(model).constant(np.array([4, 2], np.int64), "shape")
    node(model, "add").op_type = "Reshape"
    node(model, "add").replace_input_with(1, reshape)
    assert bias_input(node(model, "linear")) is None


def test_only_user_and_constants(model: ir.Model) -> None:
    assert only_user(node(model, "linear").outputs[0]) is node(model, "add")
    assert only_user(node(model, "add").outputs[0]) is None
    assert constant_of(model.graph.inputs[0]) is None
    assert constant_of(node(model, "linear").inputs[1]).shape == (3, 4)
    assert static_shape(model.graph.inputs[0]) == [2, 3]
    with pytest.raises(UnsupportedError, match="that of `free` is not"):
        static_shape(ir.Value(name="free", shape=ir.Shape(["n", 3])))
