"""Partitions: the waves, the filters, and what holds for any graph."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edgeq.errors import EdgeqError
from edgeq.targets.placement import predict
from edgeq.targets.placement.read_model import read_graph

F, U8, I64 = np.float32, np.uint8, np.int64
W33 = np.ones((3, 3), F)


def nnapi(model, **options):
    return predict(model, target="android", optimized=False, **options).as_shipped


def test_four_times_matmul_and_relu_is_four_partitions(builder):
    """The graph that name-based checkers pass as 8 of 8 nodes in one partition."""
    build = builder()
    x = build.value("f32[1,4,3]")
    for _ in range(4):
        x = build.node("Relu", [f"={build.node('MatMul', [f'={x}', W33])}"])
    report = predict(build.model(), target="android")
    assert report.optimized is not None
    for form in (report.as_shipped, report.optimized):
        assert (form.taken, form.nodes, form.partitions) == (4, 8, 4)
        assert {refused.op for refused in form.refused} == {"MatMul"}


def test_parallel_branches_share_a_partition(builder):
    build = builder()
    left = build.node("Tanh", ["f32[2]"])
    right = build.node("Relu", ["f32[2]"])
    assert nnapi(build.model(left, right)).partition_nodes == (("Tanh_0", "Relu_1"),)


def test_unsupported_node_beside_the_group_does_not_close_it(builder):
    build = builder()
    side = build.node("Erf", ["f32[2]"])
    main = build.node("Tanh", ["f32[2]"])
    build.node("Add", [f"={main}", f"={side}"])
    assert nnapi(build.model()).partition_nodes == (("Tanh_1", "Add_2"),)


def test_unsupported_node_behind_the_group_closes_it(builder):
    build = builder()
    main = build.node("Tanh", ["f32[2]"])
    side = build.node("Erf", [f"={main}"])
    build.node("Add", [f"={main}", f"={side}"])
    assert nnapi(build.model()).partition_nodes == (("Tanh_0",), ("Add_2",))


@pytest.mark.parametrize("op", ["Reshape", "Flatten", "Identity"])
def test_single_copy_is_left_on_the_cpu(builder, op):
    build = builder()
    build.node(op, ["f32[2,3]", *([np.array([3, 2], I64)] if op == "Reshape" else [])])
    found = nnapi(build.model())
    assert (found.taken, found.partitions) == (0, 0)
    assert "alone in its partition" in found.refused[0].reason


def test_partition_of_constants_is_left_on_the_cpu(builder):
    build = builder()
    constant = build.node("Tanh", [F([1, 2])])
    erf = build.node("Erf", [f"={constant}"])
    build.node("Add", [f"={erf}", "f32[2]"])
    found = nnapi(build.model())
    assert found.partition_nodes == (("Add_2",),)
    assert found.refused[0].reason == "its partition reads nothing but constants"


def test_stop_operator_excludes_everything_after_it(builder):
    build = builder()
    build.node("Tanh", ["f32[1,6,4]"])
    boxes = build.node("NonMaxSuppression", ["=Tanh_0.0", "f32[1,2,6]"])
    cast = build.node("Cast", [f"={boxes}"], to=1)
    build.node("Relu", [f"={cast}"])
    found = nnapi(build.model())
    assert found.partition_nodes == (("Tanh_0",),)


def test_bare_uint8_transpose_needs_its_producer_in_the_partition(builder):
    inside = builder()
    q = inside.q(inside.node("Tanh", ["f32[2,3]"]), F(0.1), U8(3))
    moved = inside.node("Transpose", [f"={q}"], perm=[1, 0])
    inside.dq(f"={moved}", F(0.1), U8(3))
    assert nnapi(inside.model()).taken == 4
    outside = builder()
    outside.dq(f"={outside.node('Transpose', ['u8[2,3]'], perm=[1, 0])}", F(0.1), U8(3))
    assert nnapi(outside.model()).partition_nodes == (("DequantizeLinear_1",),)


def test_captured_values_of_a_branch_are_edges(builder):
    build = builder()
    x = build.node("Tanh", ["f32[2]"])
    then = helper.make_graph(
        [helper.make_node("Relu", [x], ["t"], "inner")], "t", [], [onnx.ValueInfoProto(name="t")]
    )
    other = helper.make_graph([helper.make_node("Neg", [x], ["e"])], "e", [], [onnx.ValueInfoProto(name="e")])
    result = build.node("If", ["b[]"], then_branch=then, else_branch=other)
    build.node("Add", [f"={x}", f"={result}"])
    found = nnapi(build.model())
    assert found.nodes == 3
    assert {refused.op for refused in found.refused} >= {"If"}
    assert found.partition_nodes[0] == ("Tanh_0",)


UNARY = [
    "Tanh",
    "Relu",
    "Erf",
    "Gelu",
    "Identity",
    "Softmax",
    "Transpose",
    "LayerNormalization",
    "Cast",
    "Sqrt",
]
BINARY = ["Add", "Mul", "Sub", "Max", "Concat", "MatMul", "Gemm", "Where", "Pow"]
QUANTIZED = ["QuantizeLinear", "DequantizeLinear"]
OPS = [*UNARY, *BINARY, *QUANTIZED, "Split", "Reshape", "Gather", "ReduceMean", "Clip", "Unheard"]


@st.composite
def graphs(draw):
    """Any wiring of these operators, sensible or not: types and shapes need not fit."""
    values = ["x", "y", "i"]
    constants = [
        numpy_helper.from_array(W33, "w"),
        numpy_helper.from_array(F(0.1), "scale"),
        numpy_helper.from_array(U8(3), "zero"),
        numpy_helper.from_array(np.array([3, 3], I64), "shape"),
    ]
    nodes = []
    for index in range(draw(st.integers(1, 24))):
        op = draw(st.sampled_from(OPS))
        pool = [*values, "w", "", "shape"]
        if op in QUANTIZED:
            inputs = [draw(st.sampled_from(values)), "scale", "zero"]
        else:
            inputs = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=3))
        if not inputs[0]:
            inputs[0] = draw(st.sampled_from(values))
        outputs = [f"v{index}_{part}" for part in range(2 if op == "Split" else 1)]
        attributes = draw(st.sampled_from([{}, {"axis": 1}, {"to": 1}, {"transB": 1}, {"perm": [1, 0]}]))
        domain = "com.unheard" if op == "Unheard" else ""
        name = draw(st.sampled_from([f"n{index}", "same", ""]))
        nodes.append(helper.make_node(op, inputs, outputs, name, domain=domain, **attributes))
        values.extend(outputs)
    order = draw(st.permutations(nodes)) if draw(st.booleans()) else nodes
    graph = helper.make_graph(
        order,
        "fuzz",
        [
            helper.make_tensor_value_info("x", 1, draw(st.sampled_from([[3, 3], [1, 3, 3], ["n", 3]]))),
            helper.make_tensor_value_info("y", 1, [3, 3]),
            helper.make_tensor_value_info("i", draw(st.sampled_from([2, 6, 7])), [3, 3]),
        ],
        [onnx.ValueInfoProto(name=draw(st.sampled_from(values[3:]))) for _ in range(2)],
        constants,
    )
    opset = draw(st.sampled_from([9, 13, 17, 21]))
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.unheard", 1)],
        ir_version=8,
    )


def check_invariants(model, prediction):
    """Partitions and refused nodes split the graph; contracted, partitions leave no cycle."""
    graph = read_graph(model)
    names = [node.name for node in graph.nodes]
    assert len(set(names)) == len(names) == prediction.nodes
    taken = [name for nodes in prediction.partition_nodes for name in nodes]
    refused = [entry.node for entry in prediction.refused]
    assert sorted(taken + refused) == sorted(names)
    assert len(taken) == prediction.taken
    assert all(entry.reason for entry in prediction.refused)
    part_of = {name: ("partition", i) for i, nodes in enumerate(prediction.partition_nodes) for name in nodes}
    place = {name: i for nodes in prediction.partition_nodes for i, name in enumerate(nodes)}
    edges = defaultdict(set)
    for node in graph.nodes:
        for parent in graph.input_edges(node):
            a, b = part_of.get(parent.name, parent.name), part_of.get(node.name, node.name)
            if a == b:
                assert place[parent.name] < place[node.name], "a partition is not in topological order"
            else:
                edges[a].add(b)
    assert not has_cycle(edges), "a partition waits for a node that waits for it"


def has_cycle(edges):
    state: dict[object, int] = {}

    def visit(at):
        state[at] = 1
        for to in edges.get(at, ()):
            if state.get(to) == 1 or (to not in state and visit(to)):
                return True
        state[at] = 2
        return False

    return any(visit(at) for at in list(edges) if at not in state)


def test_cycle_detector_finds_a_cycle():
    assert has_cycle({"a": {"b"}, "b": {"a"}})
    assert not has_cycle({"a": {"b"}, "b": {"c"}})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graphs())
def test_partitions_cover_exactly_the_supported_nodes_in_a_valid_order(model):
    try:
        read_graph(model)
    except EdgeqError:
        return  # two producers or a cycle: refused with a message
    check_invariants(model, nnapi(model))
    for model_format in ("MLProgram", "NeuralNetwork"):
        report = predict(model, target="coreml", coreml_format=model_format, optimized=False)
        check_invariants(model, report.as_shipped)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graphs())
def test_the_optimized_form_never_fails_the_prediction(model):
    """ONNX Runtime refuses most of these graphs; then the report says so instead."""
    report = predict(model, target="android")
    assert (report.optimized is None) == (report.optimized_skipped is not None)
