"""Where our prediction and ONNX Runtime's usability checker differ, and why."""

from __future__ import annotations

import numpy as np

from edgeq.targets.placement.usability import compare_with_usability_checker

F, U8 = np.float32, np.uint8


def test_checker_says_yes_to_a_graph_that_is_cut_in_four(builder):
    build = builder()
    x = build.value("f32[1,4,3]")
    for _ in range(4):
        x = build.node("Relu", [f"={build.node('MatMul', [f'={x}', np.ones((3, 3), F)])}"])
    found = compare_with_usability_checker(build.model(), target="android")
    assert (found.verdict, found.taken, found.nodes, found.partitions) == ("YES", 8, 8, 1)
    assert (found.ours.taken, found.ours.partitions) == (4, 4)
    assert [difference.op for difference in found.differences] == ["MatMul"] * 4
    assert all(difference.checker_takes for difference in found.differences)
    assert "A and B must be 2-D" in found.to_json()["differences"][0]["reason"]


def test_no_difference_where_both_agree(builder):
    build = builder()
    build.node("Relu", [f"={build.node('Tanh', ['f32[2,3]'])}"])
    found = compare_with_usability_checker(build.model(), target="android")
    assert (found.taken, found.ours.taken, found.differences) == (2, 2, ())


def test_core_ml_table_lacks_operators_the_provider_has(builder):
    build = builder()
    build.node("Tanh", [f"={build.node('Gather', [np.ones((9, 4), F), 'i32[1,5]'])}"])
    found = compare_with_usability_checker(build.model(), target="coreml")
    assert [(d.op, d.checker_takes) for d in found.differences] == [("Gather", False)]
    assert "missing from the checker's table" in found.differences[0].reason


def test_checker_knows_nothing_of_quantization(builder):
    build = builder()
    q = build.q(build.node("Tanh", ["f32[2]"]), F(0.1), np.int8(0))
    build.node("Relu", [f"={build.dq(f'={q}', F(0.1), np.int8(0))}"])
    found = compare_with_usability_checker(build.model(), target="android")
    assert (found.taken, found.ours.taken) == (4, 2)
    assert {d.reason for d in found.differences} == {
        "output is int8, expected uint8",
        "input is int8, expected uint8",
    }
