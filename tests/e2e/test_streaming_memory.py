"""Memory of streaming does not grow with the checkpoint."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "streaming_rtn.py"
MEGABYTES = (50, 200)
# Buffers are the same whatever the size; the rest is the allocator's and the interpreter's noise between two runs.
NOISE_MB = 15

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads VmHWM from /proc")


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("edgeq_streaming_rtn", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def growth(benchmark, tmp_path_factory):
    """MB of peak RSS that streaming adds, for checkpoints of 50 and 200 MB in matrices of 1.5 MB and 8 MB."""
    found = []
    for size, side in zip(MEGABYTES, (886, 2048), strict=True):
        folder = tmp_path_factory.mktemp(f"mb{size}")
        benchmark.write_checkpoint(
            folder / "model.safetensors", round(size * 1e6 / (2 * side**2)), side, "BF16"
        )
        report = benchmark.measure(folder, "rtn", 2)
        (folder / "model.safetensors").unlink()
        found.append(report["peak_mb"] - report["before_mb"])
    return found


def test_peak_memory_is_the_same_for_four_times_the_weights(growth):
    small, large = growth
    assert large - small < NOISE_MB
    # Far below one copy of the weights: a version that loads tensors as float32 holds 400 MB here.
    assert large < MEGABYTES[1] / 4


HOLD = """
import sys, numpy as np
sys.path.insert(0, sys.argv[1])
from streaming_rtn import peak_bytes
before = peak_bytes()
held = np.ones(int(sys.argv[2]) * 250_000, np.float32)
print((peak_bytes() - before) / 1e6)
"""


def test_the_bound_fails_where_weights_are_held():
    command = [sys.executable, "-c", HOLD, str(BENCHMARK.parent), str(MEGABYTES[1])]
    grown = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown > MEGABYTES[1] / 4
