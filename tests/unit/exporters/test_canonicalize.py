"""The passes from a traced graph to the canonical one, on graphs small enough to read."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.exporters.canonicalize import (
    canonicalize,
    fold_reshapes,
    measure_shapes_on_input,
    multiply_by_constants,
    name_dimensions,
    share_constants,
    share_tied_heads,
    unfold_gemm,
)
from edgeq.exporters.naming import SCOPES, name_constants, name_nodes, strip_prefix

RNG = np.random.default_rng(0)


class Graph:
    """Builds a graph whose first input is `input_ids [s18, s41]`, with two float tensors to work on."""

    def __init__(self) -> None:
        self.ids = self.value("input_ids", ("s18", "s41"), ir.DataType.INT64)
        self.hidden = self.value("hidden", ("s18", "s41", 8))
        self.model = ir.Model(
            ir.Graph([self.ids, self.hidden], [], nodes=[], opset_imports={"": 20}, name="traced"),
            ir_version=10,
        )

    @staticmethod
    def value(name: str, shape, dtype=ir.DataType.FLOAT) -> ir.Value:
        return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))

    def constant(self, name: str, array) -> ir.Value:
        tensor = ir.tensor(np.asarray(array), name=name)
        value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.model.graph.register_initializer(value)
        return value

    def op(self, op_type: str, *inputs, scope: str = "", shape=None, **attributes) -> ir.Value:
        node = ir.node(op_type, list(inputs), attributes, metadata_props={SCOPES: repr(["", scope, "op"])})
        self.model.graph.append(node)
        node.outputs[0].name = f"val_{len(self.model.graph)}"
        if shape is not None:
            node.outputs[0].shape = ir.Shape(shape)
            node.outputs[0].dtype = ir.DataType.FLOAT
        return node.outputs[0]

    def output(self, value: ir.Value, name: str = "logits") -> None:
        value.name = name
        self.model.graph.outputs.append(value)

    @property
    def types(self) -> list[str]:
        return [node.op_type for node in self.model.graph]


def test_dimensions_are_named_alone_and_in_expressions():
    graph = Graph()
    value = graph.op("Abs", graph.hidden, shape=("s18", "2*s41 - 1", 8))
    name_dimensions()(graph.model)
    assert [str(dim) for dim in graph.ids.shape] == ["batch", "sequence"]
    assert [str(dim) for dim in value.shape] == ["batch", "2*sequence - 1", "8"]


def heads(graph: Graph, first: ir.Value, second: ir.Value) -> ir.Node:
    target = graph.op(
        "Concat", first, second, graph.constant("minus", [-1]), graph.constant("four", [4]), axis=0
    )
    return graph.op("Reshape", graph.hidden, target, allowzero=1).producer()


def test_a_reshape_copies_the_dimensions_that_stay():
    graph = Graph()
    node = heads(
        graph, graph.op("Shape", graph.hidden, start=0, end=1), graph.op("Shape", graph.ids, start=1, end=2)
    )
    fold_reshapes()(graph.model)
    assert node.inputs[1].const_value.numpy().tolist() == [0, 0, -1, 4]
    # With allowzero, 0 would mean an empty dimension.
    assert "allowzero" not in node.attributes


def test_a_reshape_that_swaps_dimensions_is_left_alone():
    """The negative twin: batch and sequence change places, which no constant can say."""
    graph = Graph()
    node = heads(
        graph, graph.op("Shape", graph.ids, start=1, end=2), graph.op("Shape", graph.ids, start=0, end=1)
    )
    fold_reshapes()(graph.model)
    assert node.inputs[1].const_value is None
    assert node.attributes["allowzero"].value == 1


def test_shapes_are_measured_on_the_first_input():
    graph = Graph()
    one = graph.op("Shape", graph.hidden, start=1, end=2)
    two = graph.op("Shape", graph.ids, start=1, end=2)
    both = graph.op("Concat", one, two, axis=0)
    name_dimensions()(graph.model)
    measure_shapes_on_input()(graph.model)
    assert both.producer().inputs[0] is both.producer().inputs[1]
    assert one.producer().inputs[0] is graph.ids


def test_a_division_becomes_a_product():
    graph = Graph()
    scores = graph.op("Div", graph.hidden, graph.constant("eight", np.float32(8)))
    rows = graph.op("Div", scores, graph.hidden)
    multiply_by_constants()(graph.model)
    assert scores.producer().op_type == "Mul"
    assert scores.producer().inputs[1].const_value.numpy() == 0.125
    assert rows.producer().op_type == "Div"


@pytest.mark.parametrize("trans_b", [0, 1])
def test_a_gemm_becomes_a_product_and_a_sum(trans_b):
    graph = Graph()
    weight = RNG.normal(size=(8, 3)).astype(np.float32)
    stored = graph.constant("w", weight.T.copy() if trans_b else weight)
    out = graph.op("Gemm", graph.hidden, stored, graph.constant("b", np.zeros(3, np.float32)), transB=trans_b)
    graph.output(out)
    unfold_gemm()(graph.model)
    assert graph.types == ["MatMul", "Add"]
    np.testing.assert_array_equal(graph.model.graph.node(0).inputs[1].const_value.numpy(), weight)
    assert [value.name for value in graph.model.graph.outputs] == ["logits"]


def test_a_gemm_without_bias_becomes_a_product():
    graph = Graph()
    weight = RNG.normal(size=(8, 3)).astype(np.float32)
    graph.output(graph.op("Gemm", graph.hidden, graph.constant("w", weight.T.copy()), transB=1))
    unfold_gemm()(graph.model)
    assert graph.types == ["MatMul"]
    np.testing.assert_array_equal(graph.model.graph.node(0).inputs[1].const_value.numpy(), weight)
    assert [value.name for value in graph.model.graph.outputs] == ["logits"]


def test_a_scaled_gemm_is_left_alone():
    graph = Graph()
    weight, bias = (
        graph.constant("w", np.eye(8, dtype=np.float32)),
        graph.constant("b", np.zeros(8, np.float32)),
    )
    graph.op("Gemm", graph.hidden, weight, bias, alpha=0.5)
    unfold_gemm()(graph.model)
    assert graph.types == ["Gemm"]


def test_equal_constants_are_stored_once():
    graph = Graph()
    same = RNG.normal(size=(8, 8)).astype(np.float32)
    one = graph.op("MatMul", graph.hidden, graph.constant("a", same))
    two = graph.op("MatMul", one, graph.constant("b", same.copy()))
    other = graph.op("MatMul", two, graph.constant("c", same + 1))
    share_constants()(graph.model)
    assert list(graph.model.graph.initializers) == ["a", "c"]
    assert two.producer().inputs[1] is one.producer().inputs[1] is not other.producer().inputs[1]


def test_equal_bytes_of_another_type_stay_apart():
    graph = Graph()
    graph.op("Add", graph.hidden, graph.constant("a", np.zeros(2, np.int64)))
    graph.op("Add", graph.hidden, graph.constant("b", np.zeros(4, np.int32)))
    graph.op("Add", graph.hidden, graph.constant("c", np.zeros((2, 1), np.int64)))
    share_constants()(graph.model)
    assert len(graph.model.graph.initializers) == 3


@pytest.mark.parametrize(("change", "tied"), [(0.0, True), (1e-3, False)])
def test_a_tied_head_reads_the_table(change, tied):
    graph = Graph()
    table = RNG.normal(size=(50, 8)).astype(np.float32)
    rows = graph.op("Gather", graph.constant("table", table), graph.ids, axis=0)
    graph.op("MatMul", rows, graph.constant("head", np.ascontiguousarray(table.T) + np.float32(change)))
    share_tied_heads()(graph.model)
    assert ("Transpose" in graph.types) is tied
    assert ("head" in graph.model.graph.initializers) is not tied


def test_names_follow_modules():
    graph = Graph()
    weight, bias = (
        graph.constant("val_7", np.eye(8, dtype=np.float32)),
        graph.constant("x.bias", np.ones(8, np.float32)),
    )
    scope = "model.bert.encoder.layer.0.query"
    product = graph.op("MatMul", graph.hidden, weight, scope=scope)
    total = graph.op("Add", product, bias, scope=scope)
    again = graph.op("MatMul", total, weight, scope=scope)
    scaled = graph.op(
        "Mul", again, graph.constant("val_9", np.float32(0.5)), scope="model.bert.encoder.layer.0"
    )
    graph.output(scaled)
    name_nodes(("model.bert", "model"))(graph.model)
    name_constants()(graph.model)
    base = "encoder.layer.0.query"
    assert [node.name for node in graph.model.graph] == [
        base,
        f"{base}/add",
        f"{base}@1",
        "encoder.layer.0/mul",
    ]
    assert list(graph.model.graph.initializers) == [f"{base}.weight", f"{base}.bias", "const.float32.0.5"]
    assert (total.name, scaled.name) == (f"{base}/add", "logits")


@pytest.mark.parametrize(
    ("path", "short"),
    [("model.bert.x", "x"), ("model.cls", "cls"), ("model", ""), ("modeling.x", "modeling.x"), ("", "")],
)
def test_prefixes_are_whole_modules(path, short):
    assert strip_prefix(path, ("model.bert", "model")) == short


def test_two_runs_give_the_same_bytes():
    def build() -> bytes:
        graph = Graph()
        scope = "model.dense"
        product = graph.op(
            "MatMul", graph.hidden, graph.constant("val_1", np.eye(8, dtype=np.float32)), scope=scope
        )
        graph.output(graph.op("Add", product, graph.constant("bias", np.ones(8, np.float32)), scope=scope))
        canonicalize(graph.model, ("model",))
        return bytes(ir.to_proto(graph.model).SerializeToString(deterministic=True))

    assert build() == build()
    assert b"pkg.torch" not in build()
