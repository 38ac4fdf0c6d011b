"""One exact integer product through the lane: emulators have been wrong about int8 instructions before."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from edgeq.errors import EdgeqError
from edgeq.runtime.executors import Executor

# An ONNX model of one MatMulInteger, a: uint8 [m, k], b: int8 [k, n] -> y: int32 [m, n] (opset 13),
# serialized here because the light installation has no `onnx`.
_MATMUL_INTEGER = (
    b'\x08\x08:b\n\x18\n\x01a\n\x01b\x12\x01y"\rMatMulInteger\x12\x01tZ\x15\n\x01a\x12\x10\n\x0e\x08\x02\x12\n\n\x03'
    b"\x12\x01m\n\x03\x12\x01kZ\x15\n\x01b\x12\x10\n\x0e\x08\x03\x12\n\n\x03\x12\x01k\n\x03\x12\x01nb\x15\n\x01y\x12"
    b"\x10\n\x0e\x08\x06\x12\n\n\x03\x12\x01m\n\x03\x12\x01nB\x04\n\x00\x10\r"
)
# Odd sizes reach the kernels' remainder loops too.
_SHAPES = ((1, 64, 64), (17, 131, 37))


def check_executor(executor: Executor) -> None:
    """Random integer products are what numpy says, to the last bit.

    Raises:
        EdgeqError: they are not.
    """
    generator = np.random.default_rng(0)
    batches = [
        {
            "a": generator.integers(0, 256, (m, k)).astype(np.uint8),
            "b": generator.integers(-127, 128, (k, n)).astype(np.int8),
        }
        for m, k, n in _SHAPES
    ]
    with tempfile.TemporaryDirectory(prefix="edgeq-selftest-") as folder:
        model = Path(folder) / "matmul.onnx"
        model.write_bytes(_MATMUL_INTEGER)
        results = executor.run(model, batches)
    for feeds, outputs in zip(batches, results, strict=True):
        expected = feeds["a"].astype(np.int32) @ feeds["b"].astype(np.int32)
        if not np.array_equal(outputs["y"], expected):
            wrong = int(np.sum(outputs["y"] != expected))
            raise EdgeqError(
                f"integer arithmetic is wrong on {executor.environment['cpu']}: "
                f"{wrong} of {expected.size} sums differ",
                hint="put another QEMU (8 or newer) on PATH and run edgeq doctor --setup arm64 again",
            )
