"""Seconds that calibration and quantization take: everything between the exported graph and its codes.

    python benchmarks/quantize_time.py [MODEL] [--calib FILE] [--precision int4 int8] [--samples N]

MODEL is what `edgeq export` takes (the sample model when left out). The model is exported once; each recipe then runs
in a process of its own without a calibration cache. Wall time is that of this machine as busy as it is, so CPU time and
the load before the run stand beside it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from edgeq.calibration import load_samples
from edgeq.exporters import load_model, sample_model_path
from edgeq.pipeline.forward.data import divide, wanted_samples
from edgeq.pipeline.quantizing import quantize_model
from edgeq.pipeline.request import default_samples
from edgeq.progress import SilentProgress
from edgeq.quantize.recipes import load_recipe
from edgeq.runtime.host import cpu_name

MAX_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Cost:
    """One recipe: samples that calibrated, and seconds."""

    samples: int
    wall: float
    user: float
    system: float


def main() -> None:
    """Measure every recipe and print the table."""
    arguments = parse()
    load = os.getloadavg()[0]
    print(f"{Path(arguments.model).name} on {cpu_name()}, {os.cpu_count()} cores, load {load:.1f} before")
    print(f"{'':12}  samples   wall s   user s   system s")
    context = multiprocessing.get_context("spawn")
    for name in arguments.precision:
        with ProcessPoolExecutor(1, context) as pool:
            cost = pool.submit(measure, arguments.model, name, arguments.calib, arguments.samples).result()
        print(f"{name:12} {cost.samples:8} {cost.wall:8.1f} {cost.user:8.1f} {cost.system:10.1f}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default=str(sample_model_path()))
    parser.add_argument("--calib", help="as for `edgeq export`; the built-in texts when left out")
    parser.add_argument("--precision", nargs="+", default=["int4", "int8"])
    parser.add_argument("--samples", type=int, help="the recipe's own default when left out")
    return parser.parse_args()


def measure(model: str, precision: str, calib: str | None, samples: int | None) -> Cost:
    """Export, then time from texts to codes."""
    recipe = load_recipe(precision)
    count = samples or default_samples(recipe)
    texts = load_samples(calib, count=wanted_samples(count))
    exported = load_model(model)
    with tempfile.TemporaryDirectory(prefix="edgeq-benchmark-") as folder:
        os.environ["EDGEQ_CACHE"] = folder
        wall, before = time.perf_counter(), os.times()
        data = divide(
            texts,
            exported.preprocessor,
            calibration_samples=count,
            entry=exported.head.entry,
            max_length=MAX_TOKENS,
        )
        quantize_model(exported.canonical, data, recipe, SilentProgress())
        wall, after = time.perf_counter() - wall, os.times()
    return Cost(data.calibration_samples, wall, after.user - before.user, after.system - before.system)


if __name__ == "__main__":
    main()
