"""Bundles that are right must pass: `edgeq validate` under everything that may differ between two correct machines.

    python benchmarks/false_alarms.py BUNDLE [BUNDLE ...] [--seeds 5] [--arm64]
        [--emulator "qemu-x86_64-static -cpu Haswell"]

Draws of last bits that the export did not see, 1 to 4 threads, three optimization levels, and with --arm64 the ARM64
kernels (edgeq doctor --setup arm64). --emulator validates on another x86-64 processor as well, so that a machine with
VNNI runs the kernels of one without (Debian's qemu-user-static; minutes for each variant). An ML program, which is
simulated, is run with draws of float16's last bits, in float32 throughout, with sums in float64, and with codes that
are multiplied as integers. Prints how near each run came to the bounds of the golden cases: 100 % is at one.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias
from unittest.mock import patch

import numpy as np
import onnx_ir as ir
from from_tests import support

import edgeq.pipeline.executions as executions
import edgeq.pipeline.generation.judge as generation_judge
from edgeq.bundle.manifest import Gate, Variant
from edgeq.bundle.reader import Bundle, open_bundle
from edgeq.graph.passes.rounding_noise import add_rounding_noise
from edgeq.graph.passes.sequence import edited
from edgeq.onnx_runtime import LEVELS, kernels_saturate, ordered_options
from edgeq.pipeline.drift import COSINE, MAX_ABS
from edgeq.pipeline.golden_metrics import is_golden
from edgeq.pipeline.validation.request import ValidationRequest
from edgeq.pipeline.validation.run import run_validation
from edgeq.runtime.executors import NativeExecutor
from edgeq.runtime.host import cpu_name
from edgeq.runtime.session import VariantSession
from edgeq.targets.coreml.interpreter.machine import OPERATORS, MilInterpreter
from edgeq.targets.coreml.interpreter.ops_math import Operator
from edgeq.targets.coreml.interpreter.program import Operation, TensorType
from edgeq.targets.coreml.session import PackageSession
from edgeq.types import Array

FIRST_SEED = 1000
SUMS = ("linear", "matmul", "layer_norm", "softmax", "reduce_sum")
"""Operators of ML programs that add up many values."""
Judgement: TypeAlias = tuple[bool, float, str]
"""Whether a bundle passes, the bound on golden cases it came nearest to, and its name."""


def nearness(gate: Gate, recorded: Mapping[tuple[str, str], float]) -> float:
    """How much of a bound is used: the distance from what is recorded over the distance that is allowed."""
    assert gate.value is not None
    perfect = 0.0 if gate.op == "<=" else 1.0
    start = recorded.get((gate.output, gate.metric), perfect)
    return abs(gate.value - start) / abs(gate.threshold - start)


def judge(folder: Path, variant: str, place: str = "native", emulator: str | None = None) -> Judgement:
    """Whether a bundle passes, the bound on golden cases it came nearest to, and its name."""
    with open_bundle(folder) as bundle:
        stored = [gate for gate in bundle.manifest.gates if gate.variant == variant and is_golden(gate)]
    recorded = {(gate.output, gate.metric): gate.value for gate in stored if gate.value is not None}
    report = (
        run_validation(ValidationRequest(folder, variants=(variant,), on=place))
        if emulator is None
        else emulated_report(folder, variant, emulator)
    )
    of_goldens = {MAX_ABS, COSINE, *(gate.metric for gate in stored)}
    gates = [gate for item in report.variants for gate in item.gates if gate.metric in of_goldens]
    worst = max(gates, key=lambda gate: nearness(gate, recorded))
    return (
        report.passed,
        nearness(worst, recorded),
        f"{worst.metric} ({'; '.join(report.failures) or 'passed'})",
    )


def emulated_report(folder: Path, variant: str, emulator: str) -> Any:
    """What `edgeq validate --json` says of a bundle in an emulated process."""
    command = [*shlex.split(emulator), sys.executable, "-m", "edgeq", "validate", str(folder)]
    done = subprocess.run(
        [*command, "--variant", variant, "--json", "--quiet"], capture_output=True, text=True, check=False
    )
    return json.loads(done.stdout, object_hook=lambda item: SimpleNamespace(**item))


@contextmanager
def edited_bundle(source: Path, edit: Callable[[Path], None]) -> Iterator[Path]:
    """A copy of a bundle after an edit, hashes rewritten."""
    with tempfile.TemporaryDirectory(prefix="edgeq-alarms-", dir=source.parent) as name:
        folder = Path(name) / "bundle"
        shutil.copytree(source, folder)
        edit(folder)
        support("mutate_bundle").sign(folder)
        yield folder


def noisy(model: str, seed: int) -> Callable[[Path], None]:
    """Last bits of another draw in one variant."""

    def edit(folder: Path) -> None:
        noise = edited(ir.load(folder / model), add_rounding_noise(seed))
        if (folder / f"{model}.data").is_file():
            raise SystemExit("weights beside the graph: this benchmark takes smaller bundles")
        ir.save(noise, folder / "noisy.onnx")
        (folder / "noisy.onnx").replace(folder / model)

    return edit


def at_level(variant: str, level: str) -> Callable[[Path], None]:
    """Another optimization level in a variant's order."""

    def edit(folder: Path) -> None:
        path = folder / "edgeq.json"
        document = json.loads(path.read_text("utf-8"))
        for item in document["variants"]:
            if item["id"] == variant:
                item["requirements"]["session_options"] = ordered_options(level)  # type: ignore[arg-type]
        path.write_text(json.dumps(document), "utf-8")

    return edit


def with_threads(source: Path, variant: str, threads: int) -> Judgement:
    """Validation with so many intra-op threads."""
    executor = generation_judge.open_executor

    def open_executor(*arguments: object, **options: object) -> NativeExecutor:
        return replace(executor(*arguments, **options), threads=threads)  # type: ignore[arg-type,type-var]

    with (
        patch.object(executions, "VariantSession", partial(VariantSession, threads=threads)),
        patch.object(generation_judge, "open_executor", open_executor),
    ):
        return judge(source, variant)


def runs(
    source: Path, variant: str, model: str, seeds: int, *, arm64: bool, emulator: str | None
) -> Iterator[tuple[str, Judgement]]:
    """Every way to run one variant."""
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        with edited_bundle(source, noisy(model, seed)) as folder:
            yield f"last bits, draw {seed}", judge(folder, variant)
    for threads in (1, 2, 3, 4):
        yield f"{threads} threads", with_threads(source, variant, threads)
    for level in LEVELS[1:]:
        with edited_bundle(source, at_level(variant, level)) as folder:
            yield level, judge(folder, variant)
    if arm64:
        yield "ARM64 kernels, emulated", judge(source, variant, "arm64")
    if emulator:
        yield emulator, judge(source, variant, emulator=emulator)


class IntegerProducts(MilInterpreter):
    """Layers as hardware for int8 computes them: what stands for codes is not rounded to float16."""

    def _finish(self, operation: Operation, name: str, kind: TensorType, value: Array) -> Array:
        if operation.kind == "dequantize" or operation.kind.startswith("constexpr_"):
            return value.astype(np.float32)
        return super()._finish(operation, name, kind, value)


def in_float64(operator: Operator) -> Operator:
    """An operator whose sums are of float64."""

    def run(**operands: Array) -> Array:
        wide = {n: a.astype(np.float64) if a.dtype == np.float32 else a for n, a in operands.items()}
        return np.asarray(operator(**wide), np.float32)

    return run


def interpreted(source: Path, variant: str, open_runner: Callable[[Path], MilInterpreter]) -> Judgement:
    """Validation of an ML program in another interpreter."""

    def open_variant(bundle: Bundle, item: Variant, path: Path, pad_id: int) -> PackageSession:
        return PackageSession(path, item, pad_id=pad_id, runner=open_runner(path))

    with patch.object(executions, "open_variant", open_variant):
        return judge(source, variant)


def package_runs(source: Path, variant: str, seeds: int) -> Iterator[tuple[str, Judgement]]:
    """Every way to interpret one ML program."""
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        yield (
            f"float16 last bits, draw {seed}",
            interpreted(source, variant, partial(MilInterpreter, seed=seed)),
        )
    yield "float32 throughout", interpreted(source, variant, partial(MilInterpreter, rounding=False))
    with patch.dict(OPERATORS, {name: in_float64(OPERATORS[name]) for name in SUMS}):
        yield "sums in float64", interpreted(source, variant, MilInterpreter)
    yield "products of integers", interpreted(source, variant, IntegerProducts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--arm64", action="store_true")
    parser.add_argument(
        "--emulator", help="a command that runs a program of this platform on another processor"
    )
    arguments = parser.parse_args()
    kernels = "saturate in 16 bits" if kernels_saturate() else "are exact"
    print(f"{cpu_name()}, whose own uint8 x int8 kernels {kernels}\n")
    print("| bundle, variant | run | passed | nearest to a bound |\n|---|---|---|---|")
    alarms = 0
    for source in arguments.bundles:
        with open_bundle(source) as bundle:
            found = [item for item in bundle.variants if item.runtime in ("onnxruntime", "coreml")]
        for item in found:
            variant = item.id
            ways = (
                package_runs(source, variant, arguments.seeds)
                if item.runtime == "coreml"
                else runs(
                    source,
                    variant,
                    item.model,
                    arguments.seeds,
                    arm64=arguments.arm64,
                    emulator=arguments.emulator,
                )
            )
            for how, (passed, near, name) in ways:
                alarms += not passed
                verdict = "yes" if passed else "**NO**"
                print(f"| {source.name}, {variant} | {how} | {verdict} | {near:.0%}: {name} |", flush=True)
    print(f"\n{alarms} false alarms")
    sys.exit(bool(alarms))


if __name__ == "__main__":
    main()
