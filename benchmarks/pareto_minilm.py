"""Size against fidelity of a sentence encoder: every recipe, searched ones, and ONNX Runtime's own quantizers.

Every row is a written file run by ONNX Runtime with the kernels it ships, on the same sentences: Spearman x 100 on
STS pairs with the 95 % interval of its difference to float32 (paired bootstrap), and the cosine between the quantized
and the original sentence embeddings. ONNX Runtime's weight-only quantizers leave embedding tables in float.

    python benchmarks/pareto_minilm.py --calib texts.txt --sts sts13-*.tsv --plot pareto.svg
        [--model FOLDER] [--tune "size<=13.6MB"] [--recipes int8 int4 found.yaml ...] [--peers dynamic static ...]
        [--other-python PYTHON [--others "olive rtn" "inc gptq" ...]]

Olive and Neural Compressor do not share an environment with edgeq: `--other-python` is the interpreter of one that has
them (`foreign_quantizers.py` says what it needs). A quantizer that fails there is said, with its last line, and left
out of the plot.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from foreign_quantizers import NAMES as OTHERS
from weight_only_minilm import quantize_with_peer

from edgeq.calibration import load_samples
from edgeq.exporters import load_model, sample_model_path
from edgeq.metrics import cosines, spearman
from edgeq.pipeline.forward.data import DataSets, divide, wanted_samples
from edgeq.pipeline.quantizing import quantize_model
from edgeq.pipeline.tune.budget import parse_budget
from edgeq.pipeline.tune.result import TuneRequest
from edgeq.pipeline.tune.run import run_tune
from edgeq.progress import SilentProgress
from edgeq.quantize.batches import Batches
from edgeq.quantize.recipes import BUILT_IN, Recipe, load_recipe
from edgeq.report.plots import Point, Series, check_plot_path, trade_off_plot
from edgeq.runtime.session import VariantSession
from edgeq.targets.cpu import TARGET
from edgeq.targets.target import LoweringOptions
from edgeq.types import Array

PEERS = ("ort dynamic", "ort static", "ort rtn sym", "ort rtn asym", "ort k_quant", "ort hqq")
FIXED = tuple(name for name in BUILT_IN if name != "stored" and not name.startswith("palette"))
"""Recipes of the CPU target that say themselves what becomes of a layer."""
OTHER_SECONDS = 300
"""Wall time after which a quantizer of another environment is stopped."""
HEAD = f"{'':28}     MB  Spearman  (change, 95 %)           cosine mean      p1     min     CPU s"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    label: str
    size_mb: float
    cosine_mean: float


def main() -> None:
    arguments = parse()
    if arguments.plot is not None:
        check_plot_path(arguments.plot)
    bench = Bench(arguments)
    print(
        f"{bench.data.calibration_samples} calibration texts, {len(bench.gold)} STS pairs, {platform.machine()}, "
        f"{os.cpu_count()} cores, onnxruntime {ort.__version__}\n{HEAD}"
    )
    files = {name: Path(name) for name in arguments.recipes if name not in BUILT_IN}
    fixed = [bench.recipe(load_recipe(name)) for name in arguments.recipes if name not in files]
    found = [bench.recipe(load_recipe(path), path.stem) for path in files.values()]
    tuned = [bench.tuned(budget) for budget in arguments.tune]
    peers = [bench.peer(name) for name in arguments.peers]
    names = arguments.others if arguments.other_python is not None else ()
    others = [row for name in names if (row := bench.other(name)) is not None]
    if arguments.plot is not None:
        groups = {"recipes": fixed, "edgeq tune": found + tuned, "ONNX Runtime": peers, "others": others}
        plot(arguments.plot, groups)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a folder or Hub id; the sample model if left out")
    parser.add_argument("--calib", type=Path, required=True, help="one text per line")
    parser.add_argument("--calib-samples", type=int, default=1024)
    parser.add_argument("--sts", type=Path, nargs="+", required=True, help="gold score, text, text by tabs")
    parser.add_argument("--recipes", nargs="*", default=list(FIXED), help="names, or files of searched ones")
    parser.add_argument("--tune", nargs="*", default=[], help='budgets, as "size<=13.6MB"')
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=PEERS)
    parser.add_argument("--other-python", help="interpreter with Olive and Neural Compressor")
    parser.add_argument("--others", nargs="*", default=list(OTHERS), choices=OTHERS)
    parser.add_argument("--plot", type=Path, help=".svg or .png")
    return parser.parse_args()


class Bench:
    """The model, its data, and the original's embeddings."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.model = arguments.model or str(sample_model_path())
        self.exported = load_model(self.model)
        samples = arguments.calib_samples
        texts = load_samples(str(arguments.calib), count=wanted_samples(samples), seed=0)
        self.data: DataSets = divide(
            texts,
            self.exported.preprocessor,
            calibration_samples=samples,
            entry=self.exported.head.entry,
            max_length=self.exported.canonical.max_length,
        )
        rows = [line.split("\t") for file in arguments.sts for line in file.read_text("utf-8").splitlines()]
        self.gold = np.array([float(row[0]) for row in rows])
        sentences = list(dict.fromkeys(text for row in rows for text in row[1:3]))
        self.batches = Batches(sentences, self.exported.preprocessor)
        places = {sentences[index]: place for place, index in enumerate(self.batches.order)}
        self.left, self.right = (np.array([places[row[side]] for row in rows]) for side in (1, 2))
        self.output = self.exported.canonical.outputs[0].name
        self.original = self.embed(self.exported.reference)

    def embed(self, run: Callable[..., Any]) -> Array:
        """Every sentence, `[sentences, hidden]`."""
        return np.concatenate([run(feeds)[self.output] for feeds, _ in self.batches])

    def recipe(self, recipe: Recipe, label: str | None = None) -> Row:
        """One of our recipes, through the pipeline and the CPU target."""
        started = time.process_time()
        found = quantize_model(self.exported.canonical, self.data, recipe, SilentProgress())
        seconds = time.process_time() - started
        source = found.lowering_input(self.exported.canonical)
        [spec] = TARGET.variants(recipe)
        with tempfile.TemporaryDirectory() as folder:
            path = TARGET.lower(spec, source, LoweringOptions(), Path(folder)).model
            return self.show(label or recipe.name, path, seconds)

    def tuned(self, budget: str) -> Row:
        """The recipe a search finds, run like the others."""
        started = time.process_time()
        arguments = self.arguments
        request = TuneRequest(
            "cpu",
            parse_budget(budget),
            self.model,
            str(arguments.calib),
            calib_samples=arguments.calib_samples,
        )
        recipe = run_tune(request).recipe
        row = self.recipe(recipe, f"tune {budget}")
        print(f"{'':28} (search and export: {time.process_time() - started:.0f} CPU s)", flush=True)
        return row

    def peer(self, name: str) -> Row:
        """One of ONNX Runtime's quantizers on the same float32 graph."""
        with tempfile.TemporaryDirectory() as folder:
            source, path = Path(folder) / "fp32.onnx", Path(folder) / "model.onnx"
            ir.save(self.exported.canonical.model, source)
            started = time.process_time()
            if name == "ort dynamic":
                dynamic(source, path)
            elif name == "ort static":
                static(source, path, self.data)
            else:
                quantize_with_peer(name, source, path)
            return self.show(name, path, time.process_time() - started)

    def other(self, name: str) -> Row | None:
        """A quantizer of another environment on the same float32 graph; None where it fails there."""
        with tempfile.TemporaryDirectory() as folder:
            source, path, feeds = (Path(folder) / n for n in ("fp32.onnx", "model.onnx", "feeds.npz"))
            ir.save(self.exported.canonical.model, source)
            batches = [feeds for feeds, _ in self.data.calibration]
            np.savez(
                feeds, **{f"{i}/{key}": v for i, batch in enumerate(batches) for key, v in batch.items()}
            )
            script = Path(__file__).with_name("foreign_quantizers.py")
            command = [self.arguments.other_python, str(script), name, str(source), str(path), str(feeds)]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, check=False, timeout=OTHER_SECONDS
                )
            except subprocess.TimeoutExpired:
                print(f"{name:28} stopped after {OTHER_SECONDS} s", flush=True)
                return None
            if done.returncode or not path.exists():
                lines = (done.stderr or done.stdout).strip().splitlines()
                print(f"{name:28} failed: {lines[-1] if lines else done.returncode}", flush=True)
                return None
            return self.show(name, path, float(done.stdout.strip().splitlines()[-1]))

    def show(self, label: str, path: Path, seconds: float) -> Row:
        """Measure a file and print its line."""
        found = self.embed(VariantSession(path, self.exported.canonical).run)
        cosine = cosines(self.original, found)
        before, after = (cosines(v[self.left], v[self.right]) for v in (self.original, found))
        low, high = self.interval(before, after)
        size = path.stat().st_size / 1e6
        print(
            f"{label:28} {size:6.2f}  {100 * spearman(self.gold, after):8.2f}  ({low:+.2f} to {high:+.2f})"
            f"{'':12} {cosine.mean():9.5f}  {np.percentile(cosine, 1):.4f}  {cosine.min():.4f}  {seconds:8.1f}",
            flush=True,
        )
        return Row(label, size, float(cosine.mean()))

    def interval(self, before: Array, after: Array) -> tuple[float, float]:
        """95 % interval of the change in Spearman x 100."""
        rng = np.random.default_rng(0)
        changes = []
        for _ in range(500):
            picked = rng.integers(0, len(self.gold), len(self.gold))
            gold = self.gold[picked]
            changes.append(100 * (spearman(gold, after[picked]) - spearman(gold, before[picked])))
        low, high = np.percentile(changes, [2.5, 97.5])
        return float(low), float(high)


def dynamic(source: Path, path: Path) -> None:
    """Stock dynamic int8, per channel."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, path, per_channel=True, weight_type=QuantType.QInt8)


def static(source: Path, path: Path, data: DataSets) -> None:
    """Stock static int8 of constant matrices and tables, per channel, min-max."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[Any] = iter(data.calibration)

        def get_next(self) -> Any:
            found = next(self.batches, None)
            return None if found is None else dict(found[0])

    quantize_static(
        source,
        path,
        Reader(),
        op_types_to_quantize=["MatMul", "Gather"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def plot(path: Path, groups: dict[str, list[Row]]) -> None:
    """Size against mean cosine, float32 left out."""
    series = [
        Series(name, [Point(row.label, row.size_mb, row.cosine_mean) for row in rows if row.label != "fp32"])
        for name, rows in groups.items()
        if rows
    ]
    trade_off_plot(path, series, "Size against fidelity", "mean cosine to the original")


if __name__ == "__main__":
    main()
