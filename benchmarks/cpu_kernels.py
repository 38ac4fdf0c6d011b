"""Why the CPU lowering writes what it writes: each rewrite timed alone, on the shapes of all-MiniLM-L6-v2.

    python benchmarks/cpu_kernels.py [--rows 1024] [--threads 1]

Both sides of a line compute the same; the first is what ONNX Runtime makes of the usual graph, the second what edgeq
writes. Interleaved, medians; thread spinning off.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from edgeq.onnx_runtime import session_options
from edgeq.runtime.host import cpu_name
from edgeq.runtime.timing import interleave

HIDDEN, INNER = 384, 1536
CONTRIB = "com.microsoft"
rng = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def graph(nodes: Sequence[onnx.NodeProto], constants: dict[str, np.ndarray], width: dict[str, int]) -> bytes:
    """Float inputs `[1, rows, width]`; the last node's output is the result."""
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None, size])
        for name, size in width.items()
    ]
    output = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(CONTRIB, 1)]
    made = helper.make_graph(nodes, "kernel", inputs, [output], initializers)
    return helper.make_model(made, opset_imports=opsets, ir_version=10).SerializeToString()


def residual(fused: bool) -> bytes:
    """Fused as ONNX Runtime does where an Add between two layers meets a LayerNormalization."""
    nodes = [
        helper.make_node("Sum", ["x", "skip"], ["sum"]),
        helper.make_node("LayerNormalization", ["sum", "gamma", "beta"], ["y"], axis=-1, epsilon=1e-12),
    ]
    if fused:
        inputs = ["x", "skip", "gamma", "beta"]
        kind = "SkipLayerNormalization"
        nodes = [helper.make_node(kind, inputs, ["y"], domain=CONTRIB, epsilon=1e-12)]
    return graph(nodes, {"gamma": floats(HIDDEN), "beta": floats(HIDDEN)}, {"x": HIDDEN, "skip": HIDDEN})


def gelu(with_bias: bool) -> bytes:
    nodes = [helper.make_node("Gelu", ["biased" if with_bias else "x"], ["y"])]
    if with_bias:
        nodes.insert(0, helper.make_node("Add", ["x", "bias"], ["biased"]))
    return graph(nodes, {"bias": floats(INNER)} if with_bias else {}, {"x": INNER})


def linear(written: bool) -> bytes:
    """A whole int8 layer with its bias, in QDQ form or as the kernel."""
    codes = rng.integers(-127, 128, (HIDDEN, INNER)).astype(np.int8)
    constants = {
        "weight": codes,
        "weight_scale": np.abs(floats(INNER)) + np.float32(0.01),
        "scale": np.float32(0.03),
        "zero_point": np.uint8(120),
        "bias": floats(INNER),
    }
    nodes = [helper.make_node("QuantizeLinear", ["x", "scale", "zero_point"], ["codes"])]
    if written:
        inputs = ["codes", "weight", "scale", "weight_scale", "zero_point", "", "bias"]
        nodes.append(helper.make_node("MatMulIntegerToFloat", inputs, ["y"], domain=CONTRIB))
        return graph(nodes, constants, {"x": HIDDEN})
    constants["weight_zero_point"] = np.zeros(INNER, np.int8)
    nodes += [
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero_point"], ["restored"]),
        helper.make_node(
            "DequantizeLinear", ["weight", "weight_scale", "weight_zero_point"], ["matrix"], axis=1
        ),
        helper.make_node("MatMul", ["restored", "matrix"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["y"]),
    ]
    return graph(nodes, constants, {"x": HIDDEN})


CASES: tuple[tuple[str, str, bytes, bytes], ...] = (
    ("LayerNormalization(x + skip)", "fused / Sum", residual(True), residual(False)),
    ("Gelu(x + bias)", "Add + Gelu / Gelu alone, bias in the product", gelu(True), gelu(False)),
    ("int8 linear with bias", "QDQ + Add / MatMulIntegerToFloat", linear(False), linear(True)),
)


def session(model: bytes, threads: int, folder: Path) -> tuple[ort.InferenceSession, str]:
    """The session, and the operators that ONNX Runtime runs."""
    options = session_options(exact=False, threads=threads, spin=False)
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    made = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(str(folder / "optimized.onnx")).graph.node
    return made, " ".join(node.op_type for node in nodes)


def runner(made: ort.InferenceSession, rows: int) -> Callable[[], object]:
    feeds = {item.name: floats(1, rows, item.shape[2]) for item in made.get_inputs()}
    return lambda: made.run(None, feeds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1024, help="batch x tokens")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    print(f"{arguments.rows} rows, {arguments.threads} threads, onnxruntime {ort.__version__}")
    print(f"{cpu_name()}, {platform.machine()}")
    print("| | form | runs as (usual) | runs as (edgeq) | usual, ms | edgeq, ms | edgeq / usual |")
    print("|---|---|---|---|---|---|---|")
    with TemporaryDirectory(prefix="edgeq-bench-") as name:
        for title, form, usual, ours in CASES:
            made = [session(model, arguments.threads, Path(name)) for model in (usual, ours)]
            runs = dict(zip(("usual", "edgeq"), (runner(s, arguments.rows) for s, _ in made), strict=True))
            times = interleave(runs, baseline="usual", rounds=200, budget_s=10.0)
            print(
                f"| {title} | {form} | {made[0][1]} | {made[1][1]} | {times['usual'].p50_ms:.2f} | "
                f"{times['edgeq'].p50_ms:.2f} | {times['edgeq'].ratio:.2f} |"
            )


if __name__ == "__main__":
    main()
