"""Peak memory and time of calibration by number of samples, beside onnxruntime's percentile calibration.

    python benchmarks/calibration_memory.py [MODEL] [--texts FILE] [--samples 100 500 2000]
        [--peer-samples 16 32 64] [--json]

MODEL is what `edgeq export` takes (the sample model when left out); texts are any calibration data. The
model is exported once; then every case runs in a process of its own, and the peak of its resident memory is
read. edgeq observes the inputs of all matrix products with weights through its histograms. The peer is the
percentile calibrator of `onnxruntime.quantization` on MatMul operators; it needs batches of one shape, so
its texts are padded to the longest. "Base" is a process that loads the same session and runs one batch without
keeping statistics.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeq.samples import Sample, as_samples
from edgeq.types import Array

GRAPH = "model.onnx"
TEXTS = "texts.json"
THREADS = 1


@dataclass(frozen=True, slots=True)
class Case:
    """One process: who calibrated, on how many samples, its peak memory and the seconds it took."""

    who: str
    samples: int
    peak_mb: float | None
    seconds: float | None
    failure: str = ""


def main() -> None:
    """Measure every case and print the table."""
    arguments = parse()
    if arguments.case:
        print(json.dumps(run_case(Path(arguments.folder), *arguments.case)))
        return
    with tempfile.TemporaryDirectory(prefix="edgeq-benchmark-") as name:
        folder = Path(name)
        texts = prepare(arguments.model, arguments.texts, folder, max(arguments.samples))
        wanted = [("base", 32)]
        wanted += [("edgeq", count) for count in arguments.samples if count <= texts]
        wanted += [("onnxruntime percentile", count) for count in arguments.peer_samples if count <= texts]
        cases = [measure(folder, who, count) for who, count in wanted]
    report(cases, as_json=arguments.json)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--texts")
    parser.add_argument("--samples", type=int, nargs="+", default=[100, 500, 2000])
    parser.add_argument("--peer-samples", type=int, nargs="*", default=[16, 32, 64])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def prepare(model: str | None, texts: str | None, folder: Path, count: int) -> int:
    """Export the model and draw the texts into `folder`; how many texts there are."""
    import onnx_ir as ir

    from edgeq.calibration import load_samples
    from edgeq.exporters import load_model, sample_model_path

    exported = load_model(model or sample_model_path())
    ir.save(exported.canonical.model, folder / GRAPH, external_data="weights.bin")
    exported.preprocessor.save(folder)
    samples = load_samples(texts, count=count).samples
    (folder / TEXTS).write_text(json.dumps([sample.to_json() for sample in samples]), encoding="utf-8")
    return len(samples)


def measure(folder: Path, who: str, count: int) -> Case:
    """Run one case in a fresh process."""
    command = [sys.executable, __file__, "--folder", str(folder), "--case", who, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        return Case(who, count, None, None, lines[-1] if lines else f"ended with {done.returncode}")
    result = json.loads(done.stdout.splitlines()[-1])
    return Case(who, count, result["peak_mb"], result["seconds"])


def run_case(folder: Path, who: str, count: str) -> dict[str, float]:
    """In the child: calibrate, then report this process's peak."""
    from edgeq.processors.text import TextPreprocessor

    preprocessor = TextPreprocessor.load(folder)
    document = json.loads((folder / TEXTS).read_text(encoding="utf-8"))[: int(count)]
    samples = as_samples(document)
    started = time.perf_counter()
    if who == "base":
        run_once(folder, samples, preprocessor)
    elif who == "edgeq":
        calibrate_edgeq(folder, samples, preprocessor)
    else:
        calibrate_peer(folder, samples, preprocessor)
    seconds = time.perf_counter() - started
    return {"peak_mb": peak_mb(), "seconds": seconds}


def peak_mb() -> float:
    """Peak resident memory of this process.

    On Linux from VmHWM: a child's `ru_maxrss` begins at what its parent had when it was started.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def observed(folder: Path) -> list[str]:
    """Inputs of the matrix products with a weight."""
    import onnx_ir as ir

    graph = ir.load(folder / GRAPH).graph
    products = [node for node in graph if node.op_type in ("MatMul", "Gemm")]
    weighted = [node for node in products if _name(node, 1) in graph.initializers]
    return list(dict.fromkeys(_name(node, 0) for node in weighted))


def _name(node: Any, position: int) -> str:
    return str(node.inputs[position].name)


def run_once(folder: Path, samples: list[Sample], preprocessor: Any) -> None:
    """One batch through the session edgeq calibrates with."""
    from edgeq.quantize.batches import batches_of
    from edgeq.quantize.instrument import run, session_of

    names = observed(folder)
    feeds, _ = next(iter(batches_of(samples, preprocessor)))
    with session_of(folder / GRAPH, names, THREADS) as session:
        run(session, names, feeds)


def calibrate_edgeq(folder: Path, samples: list[Sample], preprocessor: Any) -> None:
    """Streaming observers and a percentile range of every tensor."""
    from edgeq.quantize.calibrate import batches_of, observe
    from edgeq.quantize.observers.ranges import percentile

    found = observe(folder / GRAPH, observed(folder), batches_of(samples, preprocessor), threads=THREADS)
    for seen in found.values():
        percentile(seen.histogram, 99.999)


def calibrate_peer(folder: Path, samples: list[Sample], preprocessor: Any) -> None:
    """The percentile calibrator of onnxruntime, on batches of 8 padded to the longest text."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

    longest = max(preprocessor.costs(samples))

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = self._batches()

        def _batches(self) -> Iterator[dict[str, Array]]:
            for start in range(0, len(samples), 8):
                yield preprocessor(samples[start : start + 8], pad_to=min(longest, preprocessor.max_length))

        def get_next(self) -> dict[str, Array] | None:
            return next(self.batches, None)

    calibrator = create_calibrator(
        str(folder / GRAPH),
        ["MatMul"],
        augmented_model_path=str(folder / "augmented.onnx"),
        calibrate_method=CalibrationMethod.Percentile,
        use_external_data_format=True,
    )
    calibrator.set_execution_providers(["CPUExecutionProvider"])
    calibrator.collect_data(Reader())
    calibrator.compute_data()


def report(cases: list[Case], *, as_json: bool) -> None:
    machine = (
        f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, {THREADS} thread"
    )
    if as_json:
        print(json.dumps({"machine": machine, "cases": [asdict(case) for case in cases]}, indent=2))
        return
    print(f"{'':26}{'samples':>8}{'peak MB':>10}{'seconds':>10}")
    for case in cases:
        if case.peak_mb is None or case.seconds is None:
            print(f"{case.who:26}{case.samples:>8}  failed: {case.failure[:90]}")
        else:
            print(f"{case.who:26}{case.samples:>8}{case.peak_mb:>10.0f}{case.seconds:>10.1f}")
    print(f"\n{machine}")


if __name__ == "__main__":
    main()
