"""One accepted and one refused model for every operator of both Core ML formats."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.targets.placement import predict
from edgeq.targets.placement.coreml import TRIVIAL_OPS
from edgeq.targets.placement.coreml_rules import COREML_RULES

F, I64 = np.float32, np.int64
W33 = np.ones((3, 3), F)
CONV_W = np.ones((4, 3, 3, 3), F)
IMAGE = "f32[1,3,8,8]"
RANK6 = "f32[1,1,1,1,2,3]"
BN = tuple(np.ones(3, F) for _ in range(4))
POOL = {"kernel_shape": [2, 2]}
SCALES = np.array([1, 1, 2, 2], F)
VECTOR = np.ones(3, F)


def ints(*values):
    return np.array(values, I64)


def make(op, *inputs, **kw):
    return {"op": op, "inputs": inputs, **kw}


def rank6(op, **kw):
    return make(op, RANK6, **kw), "input 0 has rank 6, expected at most 5"


X = "f32[2,3]"
# op: (accepted, refused, part of the reason); the same for both formats.
BOTH = {
    **{op: (make(op, X, X), make(op, X, RANK6), "input 1 has rank 6") for op in ("Add", "Sub", "Mul", "Div")},
    "Pow": (make("Pow", X, X), make("Pow", X, "i64[3]"), "inputs of different types"),
    **{
        op: (make(op, X), *rank6(op))
        for op in (
            "Sqrt",
            "Reciprocal",
            "Sigmoid",
            "Tanh",
            "Relu",
            "LeakyRelu",
            "HardSigmoid",
            "Transpose",
            "ArgMax",
        )
    },
    "PRelu": (make("PRelu", X, F([1])), make("PRelu", X, X), "slope (input 1) must be a constant"),
    "Clip": (make("Clip", X, F(0), F(1)), make("Clip", X, F(1), F(1)), "min and max are both 1"),
    "Softmax": (make("Softmax", X), make("Softmax", "f32[batch,3]", opset=11), "needs fixed dimensions"),
    **{
        op: (
            make(op, X, ints(1), opset=18),
            make(op, X, opset=18, noop_with_empty_axes=1),
            "noop_with_empty_axes=1",
        )
        for op in ("ReduceSum", "ReduceMean")
    },
    "BatchNormalization": (
        make("BatchNormalization", IMAGE, *BN),
        make("BatchNormalization", "f32[1,3,8]", *BN),
        "input 0 has rank 3, expected rank 4",
    ),
    "Gemm": (make("Gemm", X, W33, VECTOR), make("Gemm", X, "f32[3,3]"), "B (input 1) must be a constant"),
    "Conv": (
        make("Conv", IMAGE, CONV_W),
        make("Conv", "f32[1,3,1,20000]", np.ones((4, 3, 1, 1), F)),
        "input dimension 20000 is above 16384",
    ),
    "Gather": (
        make("Gather", np.ones((9, 4), F), "i64[1,5]"),
        make("Gather", np.ones((9, 4), F), ints(1)[0]),
        "a scalar index is not supported",
    ),
    "Reshape": (
        make("Reshape", X, ints(3, 2)),
        make("Reshape", "f32[batch,3]", ints(-1)),
        "input 0 has no fixed shape",
    ),
    "Squeeze": (
        make("Squeeze", "f32[1,3]", ints(0)),
        make("Squeeze", "f32[1,3]", "i64[1]"),
        "axes (input 1)",
    ),
    "Slice": (
        make("Slice", "f32[4]", ints(0), ints(2)),
        make("Slice", "f32[4]", ints(0), "i64[1]"),
        "ends (input 2) must be a constant",
    ),
    "Split": (
        make("Split", "f32[4]", ints(1, 3), outputs=2),
        make("Split", "f32[4]", ints(4), outputs=1),
        "1 outputs, expected at least 2",
    ),
    "Pad": (
        make("Pad", IMAGE, ints(0, 0, 1, 1, 0, 0, 1, 1)),
        make("Pad", IMAGE, ints(1, 0, 1, 1, 0, 0, 1, 1)),
        "pads more than the last two dimensions",
    ),
    "Shape": (make("Shape", X), *rank6("Shape")),
    **{
        op: (make(op, IMAGE, **POOL), make(op, "f32[1,3,8]", kernel_shape=[2]), "input 0 has rank 3")
        for op in ("AveragePool", "MaxPool")
    },
    **{
        op: (make(op, IMAGE), make(op, "f32[1,3,8]"), "input 0 has rank 3, expected rank 4")
        for op in ("GlobalAveragePool", "GlobalMaxPool")
    },
}
CHANNELS = "f32[1,4,2,2]"
NEURAL_NETWORK = BOTH | {
    "MatMul": (make("MatMul", X, W33), make("MatMul", X, "f32[3,3]"), "B (input 1) must be a constant"),
    "Concat": (
        make("Concat", IMAGE, IMAGE, axis=1),
        make("Concat", X, X, axis=0),
        "input 0 has rank 2, expected rank 4",
    ),
    "Cast": (
        None,
        make("Cast", X, to=7),
        "input 0 is float32, expected int64",
    ),  # accepted: after ArgMax, below
    "LRN": (make("LRN", IMAGE, size=3), make("LRN", "f32[1,3,8]", size=3), "input 0 has rank 3"),
    "Flatten": (make("Flatten", X), *rank6("Flatten")),
    "DepthToSpace": (
        make("DepthToSpace", CHANNELS, blocksize=2),
        make("DepthToSpace", CHANNELS, blocksize=2, mode="CRD"),
        "attribute mode is CRD, expected DCR",
    ),
    "Resize": (
        make("Resize", IMAGE, None, SCALES, mode="linear", coordinate_transformation_mode="asymmetric"),
        make("Resize", IMAGE, None, SCALES, mode="linear"),
        "linear with half_pixel",
    ),
    "Shape": (make("Shape", X), make("Shape", X, end=1), "attribute end is not supported"),
}
NORM = make("LayerNormalization", X, VECTOR, VECTOR)
ML_PROGRAM = BOTH | {
    "Max": (make("Max", X, X, X), make("Max", X, RANK6), "input 1 has rank 6"),
    **{
        op: (make(op, X), *rank6(op))
        for op in ("Erf", "Exp", "Round", "Ceil", "Sin", "Cos", "Elu", "Softplus", "Identity")
    },
    "Gelu": (make("Gelu", X, opset=20), *rank6("Gelu", opset=20)),
    "QuickGelu": (make("QuickGelu", X, domain="com.microsoft"), *rank6("QuickGelu", domain="com.microsoft")),
    "Cast": (None, make("Cast", "i64[2]", to=1), "fed directly by a graph input"),
    "Where": (
        make("Where", "b[2]", "f32[2]", "f32[2]"),
        make("Where", "b[2]", "i64[2]", "i64[2]"),
        "input 1 is int64, expected float32 or float16",
    ),
    "And": (make("And", "b[2]", "b[2]"), make("And", "b[2]", "b[1,1,1,1,1,2]"), "input 1 has rank 6"),
    **{
        op: (
            make(op, X, opset=13, axes=[1]),
            make(op, X, "i64[1]", opset=20),
            "axes (input 1) must be a constant",
        )
        for op in ("ReduceMax", "ReduceMin", "ReduceProd")
    },
    "LayerNormalization": (
        NORM,
        make("LayerNormalization", X, "f32[3]"),
        "scale (input 1) must be a constant",
    ),
    "InstanceNormalization": (
        make("InstanceNormalization", IMAGE, VECTOR, VECTOR),
        make("InstanceNormalization", IMAGE, VECTOR, "f32[3]"),
        "bias (input 2) must be a constant",
    ),
    "GroupNormalization": (
        make("GroupNormalization", IMAGE, VECTOR, VECTOR, opset=21, num_groups=3),
        make("GroupNormalization", IMAGE, VECTOR, VECTOR, opset=21, num_groups=3, stash_type=10),
        "attribute stash_type is 10, expected 1",
    ),
    "MatMul": (
        make("MatMul", "f32[1,2,3]", "f32[3,3]"),
        make("MatMul", "f32[3]", "f32[3,3]"),
        "a vector with a matrix",
    ),
    "FusedConv": (
        make("FusedConv", IMAGE, CONV_W, activation="Relu", domain="com.microsoft"),
        make("FusedConv", IMAGE, CONV_W, "f32[4]", activation="Relu", domain="com.microsoft"),
        "bias (input 2) must be a constant",
    ),
    "ConvTranspose": (
        make("ConvTranspose", IMAGE, np.ones((3, 4, 2, 2), F)),
        make("ConvTranspose", IMAGE, np.ones((3, 4, 2, 2), F), output_shape=[9, 9]),
        "output_shape is not supported",
    ),
    "GatherND": (
        make("GatherND", X, ints(0)),
        make("GatherND", X, np.array([[0], [1]], I64), batch_dims=1),
        "attribute batch_dims is 1, expected 0",
    ),
    "Unsqueeze": (
        make("Unsqueeze", X, ints(0)),
        make("Unsqueeze", "f32[1,1,1,2,3]", ints(0)),
        "the result has rank 6, expected at most 5",
    ),
    "Concat": (make("Concat", X, X, axis=0), make("Concat", X, axis=0), "1 inputs, expected at least 2"),
    "Tile": (make("Tile", X, "i64[2]"), make("Tile", RANK6, ints(1, 1, 1, 1, 1, 1)), "input 0 has rank 6"),
    "DepthToSpace": (
        make("DepthToSpace", CHANNELS, blocksize=2, mode="CRD"),
        make("DepthToSpace", "f32[b,4,2,2]", blocksize=2, mode="CRD"),
        "mode CRD needs fixed dimensions",
    ),
    "Resize": (
        make("Resize", IMAGE, None, SCALES, mode="linear"),
        make("Resize", IMAGE, None, SCALES, mode="cubic"),
        "mode is cubic, expected nearest or linear",
    ),
    "GridSample": (
        make("GridSample", IMAGE, "f32[1,4,4,2]"),
        make("GridSample", IMAGE, "f32[1,4,4,2]", mode="bicubic"),
        "mode is bicubic",
    ),
}
CASES = [
    *[("NeuralNetwork", op, *case) for op, case in NEURAL_NETWORK.items()],
    *[("MLProgram", op, *case) for op, case in ML_PROGRAM.items()],
]


def prediction(builder, model_format, op, inputs, opset=17, outputs=1, **attributes):
    build = builder(opset)
    last = build.node(op, inputs, outputs=outputs, **attributes)
    names = [f"{last[:-1]}{index}" for index in range(outputs)]
    if op in TRIVIAL_OPS:
        build.node("Tanh", [f"={last}"])  # a partition that only moves data is left on the CPU
        names = []
    model = build.model(*names)
    return predict(model, target="coreml", coreml_format=model_format, optimized=False).as_shipped


@pytest.mark.parametrize(
    ("model_format", "cases"), [("NeuralNetwork", NEURAL_NETWORK), ("MLProgram", ML_PROGRAM)]
)
def test_every_row_has_an_accepted_and_a_refused_model(model_format, cases):
    assert sorted(cases) == sorted(COREML_RULES[model_format])


@pytest.mark.parametrize(
    ("model_format", "op", "accepted", "refused", "reason"),
    CASES,
    ids=[f"{case[0]}-{case[1]}" for case in CASES],
)
def test_table(builder, model_format, op, accepted, refused, reason):
    if accepted is not None:
        found = prediction(builder, model_format, **accepted)
        assert found.refused == ()
        assert (found.taken, found.partitions) == (found.nodes, 1)
    found = prediction(builder, model_format, **refused)
    assert found.refused[0].op == op
    assert reason in found.refused[0].reason


def test_cast_is_accepted_behind_another_node(builder):
    program = builder()
    program.node("Cast", [f"={program.node('Tanh', ['f32[2]'])}"], to=10)
    assert predict(program.model(), target="coreml", optimized=False).as_shipped.is_full
    network = builder()
    network.node("Cast", [f"={network.node('ArgMax', ['f32[2]'])}"], to=6)
    report = predict(network.model(), target="coreml", coreml_format="NeuralNetwork", optimized=False)
    assert report.as_shipped.is_full


def test_quantized_operators_stay_on_the_cpu_and_cut_the_graph(builder):
    build = builder()
    first = build.node("Tanh", ["f32[2]"])
    q = build.q(first, F(0.1), np.uint8(0))
    build.node("Tanh", [f"={build.dq(f'={q}', F(0.1), np.uint8(0))}"])
    found = predict(build.model(), target="coreml", optimized=False).as_shipped
    assert (found.taken, found.partitions) == (2, 2)
    assert "disable_quant_qdq" in found.refused[0].fix


def test_a_partition_that_only_moves_data_is_left_on_the_cpu(builder):
    build = builder()
    build.node("Transpose", [f"={build.node('Reshape', ['f32[2,3]', ints(3, 2)])}"])
    found = predict(build.model(), target="coreml", optimized=False).as_shipped
    assert found.taken == 0
    assert {r.reason for r in found.refused} == {"its partition only moves data; that is left on the CPU"}


def test_half_precision_needs_core_ml_6_for_gather(builder):
    half = prediction(builder, "MLProgram", "Gather", (np.ones((9, 4), np.float16), "i32[2]"))
    single = prediction(builder, "MLProgram", "Gather", (np.ones((9, 4), F), "i32[2]"))
    assert (half.min_coreml, single.min_coreml) == (6, 5)
    assert half.min_android_api is None


def test_neural_network_points_to_ml_program(builder):
    found = prediction(builder, "NeuralNetwork", "LayerNormalization", (X, VECTOR, VECTOR))
    assert found.refused[0].fix == "use the MLProgram format"


def test_dynamic_dimensions_are_allowed(builder):
    assert prediction(builder, "MLProgram", "Tanh", ("f32[batch,3]",)).is_full
