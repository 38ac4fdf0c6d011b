"""What becomes of the weights of GGUF, GPTQ and AWQ checkpoints, type by type: equal or not, and the product's speed.

Random bytes that a file of each type may hold are taken over, lowered into a graph of one product, written, and read
back from the written file. "weights" compares with the dequantization of the `gguf` package (for GPTQ and AWQ with the
formula of the format): equal bit for bit, or off by so many units in the last place of the largest weight of a block
of 32. "error" is the relative error of the product for normally distributed inputs: it comes from rounding them to int8
per block (accuracy level 4); "at 0" is the same file with float inputs. Times are the fastest of interleaved runs,
relative to plain 4-bit blocks of 32.

    python benchmarks/lossless_import.py [--shape 2048,4096] [--threads 1] [--rounds 30]
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from edgeq.graph.read_blocks import read_block_weights
from edgeq.onnx_runtime import session_options
from edgeq.quantize.formats import Blocks
from edgeq.quantize.weight_only import QuantizedWeight, quantize
from edgeq.quantize.weight_only.awq_import import AwqLayer, import_awq
from edgeq.quantize.weight_only.gguf_import import FORMATS, HALF_RANGE, UNREPRESENTABLE, import_blocks
from edgeq.quantize.weight_only.gptq_import import GptqLayer, import_gptq
from edgeq.quantize.weight_only.matmul_nbits import lower

Floats = NDArray[np.float32]
PLAIN = "plain 4-bit"
SLOW = "Q4_K float zeros"
GROUP = 128
ROWS = (1, 64)
"""Tokens of a product: one that is generated, a prompt that is read."""
HALVES = {
    "Q6_K": (208,),
    "Q3_K": (108,),
    "Q2_K": (80, 82),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
}
"""Where a GGUF block has its float16 numbers, if not at byte 0."""
ULP_BLOCK = 32
MOST_ULP = 4
"""Scale times code, the offset, and their sum are rounded on either side: half a unit each, and twice that for sums."""
LINE = "{:20s} {:50s} {:22s} {:>5s} {:>5s} {:>8s} {:>8s} {:>7s} {:>7s}"
E8M0 = (110, 130)
"""Exponents of MXFP4 that trained weights have."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One type: the weight as edgeq takes it over, and `[in, out]` as the format means it."""

    name: str
    weight: QuantizedWeight
    expected: Floats
    file_bits: float


def main() -> None:
    arguments = parse()
    k, n = (int(part) for part in arguments.shape.split(","))
    random = np.random.default_rng(arguments.seed)
    cases = [plain(random, k, n), *(gguf_case(kind, random, k, n) for kind in FORMATS)]
    cases += [gptq_case(random, k, n), gptq_case(random, k, n, is_scattered=True), awq_case(random, k, n)]
    print(
        f"{k} inputs, {n} outputs, {arguments.threads} thread(s), onnxruntime {onnxruntime.__version__}, "
        f"{platform.machine()}"
    )
    with tempfile.TemporaryDirectory() as scratch:
        report(cases, Path(scratch), arguments)
    for kind, reason in UNREPRESENTABLE.items():
        print(f"{kind:20s} not held: {reason}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="2048,4096", help="inputs,outputs; inputs a multiple of 256")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def plain(random: np.random.Generator, k: int, n: int) -> Case:
    weight = quantize("rtn", random.normal(0, 0.02, (k, n)).astype(np.float32), Blocks(4, 32))
    return Case(PLAIN, weight, weight.dequantize(), 4.5)


def gguf_case(kind: str, random: np.random.Generator, k: int, n: int) -> Case:
    layout = FORMATS[kind]
    blocks = random.integers(0, 256, (n, k // layout.values, layout.bytes_per_block)).astype(np.uint8)
    if kind == "MXFP4":
        blocks[..., 0] = random.integers(*E8M0, blocks.shape[:2])
    else:
        for at in HALVES.get(kind, (0,)):
            numbers = random.normal(0, 0.01, blocks.shape[:2]).astype("<f2")
            blocks[..., at : at + 2] = numbers[..., None].view(np.uint8)
    rows = blocks.reshape(n, -1)
    expected = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[kind]).T
    return Case(kind, import_blocks(kind, rows, k), expected, 8 * layout.bytes_per_block / layout.values)


def gptq_case(random: np.random.Generator, k: int, n: int, *, is_scattered: bool = False) -> Case:
    groups = np.arange(k) // GROUP
    if is_scattered:
        groups = random.permutation(groups)
    codes, zeros, scales = packed_parts(random, k, n)
    layer = GptqLayer(words(codes.T).T.copy(), words(zeros - 1), scales, groups.astype(np.int32))
    expected = (codes - zeros[groups]).astype(np.float32) * scales[groups].astype(np.float32)
    name = f"GPTQ g{GROUP}{' act-order' if is_scattered else ''}"
    return Case(name, import_gptq(layer, 4, GROUP, version=1), expected, 4 + 20 / GROUP)


def awq_case(random: np.random.Generator, k: int, n: int) -> Case:
    groups = np.arange(k) // GROUP
    codes, zeros, scales = packed_parts(random, k, n)
    outputs = np.arange(n).reshape(-1, 8)[:, (0, 2, 4, 6, 1, 3, 5, 7)].reshape(-1)
    layer = AwqLayer(words(codes[:, outputs]), words(zeros[:, outputs]), scales)
    expected = (codes - zeros[groups]).astype(np.float32) * scales[groups].astype(np.float32)
    return Case(f"AWQ g{GROUP}", import_awq(layer, GROUP, "gemm"), expected, 4 + 20 / GROUP)


def packed_parts(
    random: np.random.Generator, k: int, n: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float16]]:
    """Codes `[k, n]`, zero points and scales `[groups, n]`."""
    scales = random.uniform(0.001, 0.01, (k // GROUP, n)).astype(np.float16)
    return random.integers(0, 16, (k, n)), random.integers(1, 16, (k // GROUP, n)), scales


def words(values: NDArray[np.int64]) -> NDArray[np.int32]:
    """Eight 4-bit fields to a word, the first lowest."""
    fields = values.reshape(len(values), -1, 8).astype(np.uint32)
    return np.bitwise_or.reduce(fields << np.arange(0, 32, 4, dtype=np.uint32), axis=-1).view(np.int32)


def report(cases: list[Case], folder: Path, arguments: argparse.Namespace) -> None:
    random = np.random.default_rng(arguments.seed)
    described, sessions = {}, {}
    for index, case in enumerate(cases):
        path = folder / f"{index}.onnx"
        ir.save(graph_of(case.weight), path)
        sessions[case.name] = open_session(path, arguments.threads)
        x = random.normal(size=(64, case.weight.in_features)).astype(np.float32)
        errors = (
            output_error(sessions[case.name], x, case),
            output_error(open_session(path_at_zero(path), arguments.threads), x, case),
        )
        described[case.name] = [
            held_as(case.weight),
            equality(case, read_block_weights(path)["product"]),
            f"{case.file_bits:.2f}",
            f"{case.weight.bits_per_weight:.2f}",
            *(f"{error:.1e}" for error in errors),
        ]
    by_name = {case.name: case for case in cases}
    path = folder / "slow.onnx"
    ir.save(with_float_zeros(by_name["Q4_K"].weight), path)
    sessions[SLOW] = open_session(path, arguments.threads)
    described[SLOW] = ["4 bits, blocks of 32, float zero points", "not written by edgeq", *[""] * 4]
    times = race(sessions, cases[0].weight.in_features, arguments.rounds)
    print(
        LINE.format(
            "type", "held as", "weights", "bits", "here", "error", "at 0", *map("{} tok".format, ROWS)
        )
    )
    for name, cells in described.items():
        print(LINE.format(name, *cells, *(f"{times[name, m] / times[PLAIN, m]:.2f}x" for m in ROWS)))
    print(f"{PLAIN}: " + ", ".join(f"{1e3 * times[PLAIN, m]:.2f} ms for {m} token(s)" for m in ROWS))


def graph_of(weight: QuantizedWeight) -> ir.Model:
    """One product by the weight, as an export writes it."""
    k, n = weight.in_features, weight.out_features
    kind = ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="x", shape=ir.Shape(["rows", k]), type=kind)
    dense = ir.tensor(weight.dequantize(), name="w")
    w = ir.Value(name="w", shape=ir.Shape((k, n)), type=kind, const_value=dense)
    node = ir.node("MatMul", [x, w], name="product")
    y = node.outputs[0]
    y.name, y.shape, y.type = "y", ir.Shape(["rows", n]), kind
    graph = ir.Graph([x], [y], nodes=[node], initializers=[w], opset_imports={"": 20}, name="g")
    model = ir.Model(graph, ir_version=10)
    return lower(model, {"w": weight}).model


def with_float_zeros(weight: QuantizedWeight) -> ir.Model:
    """The same weight in the other form that MatMulNBits has for it: a float zero point per block."""
    assert weight.offsets is not None
    model = graph_of(replace(weight, offsets=None))
    product = model.graph.node("product")
    scales = np.where(weight.scales == 0, np.float32(1), weight.scales)
    zeros = (weight.spec.middle - weight.offsets / scales).astype(np.float32)
    value = ir.Value(name="zeros", shape=ir.Shape(zeros.shape), type=ir.TensorType(ir.DataType.FLOAT))
    value.const_value = ir.tensor(zeros, name="zeros")
    model.graph.register_initializer(value)
    product.resize_inputs(4)
    product.replace_input_with(3, value)
    return model


def path_at_zero(path: Path) -> Path:
    """The same file with float inputs (accuracy level 0)."""
    model = ir.load(path)
    model.graph.node("product").attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 0)
    changed = path.with_suffix(".level0.onnx")
    ir.save(model, changed)
    return changed


def open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = session_options(threads=threads)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def held_as(weight: QuantizedWeight) -> str:
    extras = {
        "zero points": weight.zero_points,
        "offsets beside": weight.offsets,
        "inputs sorted": weight.input_order,
    }
    parts = [name for name, value in extras.items() if value is not None]
    return ", ".join([f"{weight.spec.bits} bits, blocks of {weight.spec.block_size}", *parts])


def equality(case: Case, found: Floats) -> str:
    """`equal`, or by how many units in the last place of its block's largest weight a weight differs at most."""
    # Zero has two signs, which are no difference.
    if np.array_equal(found, case.expected):
        return "equal"
    blocks = np.abs(case.expected.T).reshape(-1, ULP_BLOCK)
    ulp = np.spacing(blocks.max(axis=1, keepdims=True))
    worst = (np.abs(found - case.expected).T.reshape(-1, ULP_BLOCK) / ulp).max()
    assert (case.name in HALF_RANGE) and worst <= MOST_ULP, f"{case.name} is off by {worst} ulp"
    return f"to rounding: {worst:.1f} ulp"


def output_error(session: onnxruntime.InferenceSession, x: Floats, case: Case) -> float:
    """Relative error of the product, against float64."""
    exact = x.astype(np.float64) @ case.expected.astype(np.float64)
    (found,) = session.run(None, {"x": x})
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def race(
    sessions: Mapping[str, onnxruntime.InferenceSession], k: int, rounds: int
) -> dict[tuple[str, int], float]:
    """Fewest seconds of a product by session and rows; sessions take turns within every round."""
    taken: dict[tuple[str, int], list[float]] = {(name, m): [] for name in sessions for m in ROWS}
    for m in ROWS:
        feeds = {"x": np.random.default_rng(m).normal(size=(m, k)).astype(np.float32)}
        for round_number in range(rounds + 1):
            for name, session in sessions.items():
                start = time.perf_counter()
                session.run(None, feeds)
                if round_number:  # the first warms up
                    taken[name, m].append(time.perf_counter() - start)
    return {key: min(values) for key, values in taken.items()}


if __name__ == "__main__":
    main()
