"""Peak memory and speed of quantizing a synthetic checkpoint that is larger than what the process may hold.

python benchmarks/streaming_rtn.py [--gigabytes 2] [--dtype BF16] [--method rtn] [--threads N]

Writes a safetensors checkpoint of square matrices into a temporary folder, streams it into an ONNX model in a
process of its own, prints what that took, and removes the folder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SIDE = 4096
ITEM_BYTES = {"BF16": 2, "F16": 2, "F32": 4}


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="edgeq-streaming-", dir=arguments.folder) as name:
        folder = Path(name)
        count = max(1, round(arguments.gigabytes * 1e9 / (SIDE * SIDE * ITEM_BYTES[arguments.dtype])))
        size = write_checkpoint(folder / "model.safetensors", count, SIDE, arguments.dtype)
        print(
            f"machine: {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}"
        )
        print(f"checkpoint: {count} matrices of {SIDE} x {SIDE}, {arguments.dtype}, {size / 1e6:.0f} MB")
        report = measure(folder, arguments.method, arguments.threads)
        megabytes, bits = size / 1e6, report["data_bytes"] * 8 / (count * SIDE**2)
        print(
            f"{arguments.method}: {megabytes / report['wall_s']:.0f} MB/s of checkpoint ({report['wall_s']:.1f} s)"
        )
        print(f"CPU {report['cpu_s']:.1f} s, {megabytes / report['cpu_s']:.0f} MB per CPU second")
        print(
            f"peak RSS {report['peak_mb']:.0f} MB, {report['before_mb']:.0f} MB of it before the first weight"
        )
        print(f"data file {report['data_bytes'] / 1e6:.0f} MB, {bits:.2f} bits per weight")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--dtype", choices=ITEM_BYTES, default="BF16")
    parser.add_argument("--method", default="rtn")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--folder", help="where the temporary folder is made")
    return parser.parse_args()


def write_checkpoint(path: Path, count: int, side: int, dtype: str) -> int:
    """A checkpoint of `count` matrices that share their random values; returns its bytes."""
    values = np.random.default_rng(0).standard_normal((side, side), dtype=np.float32) * np.float32(0.02)
    if dtype == "BF16":
        data = (values.view(np.uint32) >> 16).astype("<u2")
    else:
        data = values.astype({"F16": "<f2", "F32": "<f4"}[dtype])
    entries = {
        f"model.layers.{number}.mlp.up_proj.weight": {
            "dtype": dtype,
            "shape": [side, side],
            "data_offsets": [number * data.nbytes, (number + 1) * data.nbytes],
        }
        for number in range(count)
    }
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _ in range(count):
            file.write(data.data)
    return path.stat().st_size


def measure(folder: Path, method: str, threads: int | None) -> dict[str, float]:
    """Stream a checkpoint in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", str(folder), method, str(threads or 0)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    report: dict[str, float] = json.loads(done.stdout)
    return report


def stream(folder: Path, method: str, threads: int) -> dict[str, float]:
    """What the child does: one MatMul per matrix, all of them quantized."""
    from edgeq.quantize.recipes import LayerSpec
    from edgeq.quantize.streaming import Checkpoint, stream_weights

    checkpoint = Checkpoint.open(folder)
    import onnx_ir.passes.common  # noqa: F401 - a second of imports that belongs to no checkpoint

    model = chain_of_products(checkpoint)
    specs = {name: LayerSpec(method=method) for name in checkpoint.names()}
    before, wall, cpu = peak_bytes(), time.perf_counter(), time.process_time()
    written = stream_weights(model, specs, folder / "model.onnx", threads=threads or None)
    return {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "before_mb": before / 1e6,
        "peak_mb": peak_bytes() / 1e6,
        "data_bytes": written.data_bytes,
    }


def chain_of_products(checkpoint):
    """The product x @ W0^T @ W1^T ... as Gemm with transB, weights by reference."""
    import onnx_ir as ir

    side = checkpoint[checkpoint.names()[0]].shape[0]
    x = ir.Value(name="x", shape=ir.Shape(["rows", side]), type=ir.TensorType(ir.DataType.FLOAT))
    nodes, initializers, value = [], [], x
    for name in checkpoint.names():
        weight = ir.Value(
            name=name,
            shape=ir.Shape(checkpoint[name].shape),
            type=ir.TensorType(ir.DataType.FLOAT),
            const_value=checkpoint[name].reference(),
        )
        node = ir.node("Gemm", [value, weight], {"transB": 1}, name=name.removesuffix(".weight"))
        value = node.outputs[0]
        value.name = f"{node.name}.out"
        value.type, value.shape = (
            ir.TensorType(ir.DataType.FLOAT),
            ir.Shape(["rows", checkpoint[name].shape[0]]),
        )
        nodes.append(node)
        initializers.append(weight)
    graph = ir.Graph(
        [x], [value], nodes=nodes, initializers=initializers, opset_imports={"": 20}, name="chain"
    )
    return ir.Model(graph, ir_version=10)


def peak_bytes() -> int:
    """Peak RSS of this process; ru_maxrss would start at the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(stream(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))))
    else:
        main()
