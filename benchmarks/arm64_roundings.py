"""What ARM64's kernels of block-quantized layers do to activations, against the twins that spell it out.

    python benchmarks/arm64_roundings.py

One MatMulNBits layer of 4 bits at accuracy level 4, with and without zero points, in blocks of several sizes, run by
the emulated ARM64 kernels (edgeq doctor --setup arm64), by this CPU's, and as each rounding of
edgeq/graph/passes/activation_rounding.py. Root mean square distances from the ARM64 kernels, of the output's own.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx_ir as ir
from from_tests import support

from edgeq.graph.passes.activation_rounding import Rounding, known_roundings, round_activations
from edgeq.graph.passes.sequence import edited
from edgeq.onnx_runtime import DEFAULT_LEVEL
from edgeq.runtime.executors import Executor, NativeExecutor, open_executor
from edgeq.runtime.host import cpu_name
from edgeq.types import Array

K, N, ROWS = 256, 64, 24
BLOCKS = (16, 32, 64, 128)
rng = np.random.default_rng(0)


def layer(block: int, *, zero_points: bool) -> ir.Model:
    """`y = x @ W` with random 4-bit codes."""
    arrays = [
        ("codes", rng.integers(0, 256, size=(N, K // block, block // 2), dtype=np.uint8)),
        ("scales", rng.uniform(0.01, 0.02, size=(N, K // block)).astype(np.float32)),
    ]
    if zero_points:
        points = rng.integers(0, 256, size=(N, (K // block + 1) // 2), dtype=np.uint8)
        arrays.append(("zero_points", points))
    attributes = {"K": K, "N": N, "bits": 4, "block_size": block, "accuracy_level": 4}
    made: ir.Model = support("block_layers").block_layer(arrays, attributes)
    return made


def run(executor: Executor, model: ir.Model, x: Array) -> Array:
    """The layer's output."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "layer.onnx"
        ir.save(model, path)
        return executor.run(path, [{"x": x}], DEFAULT_LEVEL)[0]["y"]


def main() -> None:
    here, arm64 = NativeExecutor("x86-64", 1), open_executor("arm64")
    print(f"{cpu_name()}; ARM64 emulated\n")
    print(f"| zero points, block | {cpu_name()} | {' | '.join(Rounding)} |\n|{'---|' * (2 + len(Rounding))}")
    spread = np.exp(rng.normal(size=(1, K)))
    for zero_points in (False, True):
        for block in BLOCKS:
            model = layer(block, zero_points=zero_points)
            x = (rng.normal(size=(ROWS, K)) * spread + 0.3).astype(np.float32)
            wanted = run(arm64, model, x)
            twins = {each: edited(model, round_activations(each)) for each in known_roundings(model)}
            outputs = [run(here, model, x), *(run(here, twin, x) for twin in twins.values())]
            size = np.sqrt(np.square(wanted).mean())
            distances = [f"{np.sqrt(np.square(found - wanted).mean()) / size:.1e}" for found in outputs]
            distances += ["-"] * (1 + len(Rounding) - len(distances))
            print(f"| {'yes' if zero_points else 'no'}, {block} | {' | '.join(distances)} |")


if __name__ == "__main__":
    main()
