"""Memory a model needs, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from edgeq.errors import ModelError
from edgeq.onnx_runtime import DEFAULT_LEVEL, OptimizationLevel
from edgeq.types import TensorSpec

# Runs in a fresh interpreter: peak RSS with the model loaded and run once, over the peak before.
_PROBE = """
import json, resource, sys
import numpy as np
import onnxruntime as ort
from edgeq.onnx_runtime import session_options
request = json.loads(sys.argv[1])
def peak():
    # On Linux ru_maxrss starts at the parent's own peak; VmHWM belongs to this process alone.
    try:
        lines = open("/proc/self/status").read().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
before = peak()
options = session_options(exact=False, level=request["level"])
session = ort.InferenceSession(request["model"], options, providers=["CPUExecutionProvider"])
session.run(None, {name: np.ones(shape, dtype) for name, dtype, shape in request["inputs"]})
print(peak() - before)
"""
PROBE_TIMEOUT_S = 300


def measure_ram_bytes(
    model: Path,
    inputs: tuple[TensorSpec, ...],
    *,
    tokens: int = 128,
    probes: int = 1,
    level: OptimizationLevel = DEFAULT_LEVEL,
) -> int:
    """Growth of peak RSS from loading the model and running one batch of 1, with the kernels an app gets.

    Args:
        model: a `.onnx` file.
        inputs: its inputs; free dimensions become 1 (the first) and `tokens` (others).
        tokens: sequence length for free dimensions.
        probes: processes, of which the least counts: where the system happens to put blocks can cost some megabytes.
        level: graph optimizations, as the variant orders them.

    Raises:
        ModelError: the process failed.
    """
    feeds = [(spec.name, spec.dtype, _sizes(spec, tokens)) for spec in inputs]
    request = json.dumps({"model": str(model), "inputs": feeds, "level": level})
    return min(_probe(model, request) for _ in range(probes))


def _probe(model: Path, request: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, request],
        capture_output=True,
        text=True,
        timeout=PROBE_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise ModelError(
            f"`{model.name}` cannot be run in a process of its own: {done.stderr.strip()[-300:]}"
        )
    return int(done.stdout)


def _sizes(spec: TensorSpec, tokens: int) -> list[int]:
    return [
        dim if isinstance(dim, int) else (1 if axis == 0 else tokens) for axis, dim in enumerate(spec.shape)
    ]
