"""What each Core ML precision of a sentence encoder costs and keeps, on the packages that `edgeq export` writes.

    python benchmarks/coreml_minilm.py --calib texts.txt --sts sts13-a.tsv sts13-b.tsv [--model FOLDER] [--pairs N]
        [--precisions fp16 int8 q8 int4 palette4 palette6]

Each precision is exported for Core ML, and for the CPU too where ONNX has the format, in one command. The package is
read back and run by edgeq's interpreter (level: simulated), one sentence at a time; the ONNX variant by ONNX Runtime.
Printed: size of the package, Spearman x 100 over the pairs with a 95 % bootstrap interval of the difference to the
original, the cosine of every sentence's embedding to the original's, and the mean relative difference between the
package and the ONNX variant of the same plan with the bound that the export's gate puts on it.

At the end: the time of one text of 128 tokens through the interpreter, and of `edgeq validate` over a bundle's goldens.

STS files have one pair per line: score, sentence, sentence, separated by tabs.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.bundle.reader import Bundle, open_bundle
from edgeq.errors import EdgeqError
from edgeq.exporters import load_model, sample_model_path
from edgeq.metrics import cosines, spearman
from edgeq.pipeline.sessions import open_variant
from edgeq.processors.processor import Processor
from edgeq.processors.text_padding import full_batch
from edgeq.quantize.batches import batches_of
from edgeq.quantize.recipes import load_recipe
from edgeq.runtime.host import cpu_name
from edgeq.samples import Text, as_samples
from edgeq.targets import get_target
from edgeq.types import Array

LENGTHS = "16,32,64,128"
OUTPUT = "sentence_embedding"
DRAWS = 1000


@dataclass(frozen=True)
class Pairs:
    """Scored sentence pairs."""

    scores: Array
    first: list[str]
    second: list[str]

    @property
    def texts(self) -> list[str]:
        """Both sides, first then second."""
        return [*self.first, *self.second]


def read_pairs(paths: list[Path], limit: int | None) -> Pairs:
    """All pairs, or a random `limit` of them."""
    rows = [line.rstrip("\n").split("\t") for path in paths for line in path.open(encoding="utf-8")]
    order = np.random.default_rng(0).permutation(len(rows))[: limit or len(rows)]
    kept = [rows[index] for index in order]
    scores = np.array([float(row[0]) for row in kept])
    return Pairs(scores, [row[1] for row in kept], [row[2] for row in kept])


def similarity(vectors: Array) -> Array:
    count = len(vectors) // 2
    return cosines(vectors[:count], vectors[count:])


def interval(vectors: Array, original: Array, pairs: Pairs) -> tuple[float, float]:
    """95 % paired bootstrap interval of the difference in Spearman x100."""
    rng = np.random.default_rng(0)
    ours, theirs = similarity(vectors), similarity(original)
    found = []
    for _ in range(DRAWS):
        rows = rng.integers(0, len(pairs.scores), len(pairs.scores))
        gold = pairs.scores[rows]
        found.append(100 * (spearman(ours[rows], gold) - spearman(theirs[rows], gold)))
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def export(model: str | None, precision: str, calib: str | None, folder: Path) -> dict[str, Path]:
    """`edgeq export` as a process of its own: the bundles by target."""
    recipe = load_recipe(precision)
    targets = [
        name
        for name in ("coreml", "cpu")
        if any(spec.refusal is None for spec in get_target(name).variants(recipe))
    ]
    command = [sys.executable, "-m", "edgeq", "export", *([model] if model else [])]
    command += ["--precision", precision, "--seq-len", LENGTHS, "-o", str(folder / precision), "--json"]
    command += [word for name in targets for word in ("--target", name)]
    command += ["--quiet", *(["--calib", calib] if calib else [])]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE)
    # A gate may fail: the row shows by how much.
    if done.returncode not in (0, 3):
        raise SystemExit(f"the export of {precision} failed")
    return {item["target"]: Path(item["path"]) for item in json.loads(done.stdout)["bundles"]}


def encode(bundle: Bundle, texts: list[str], preprocessor: Processor, batch: int) -> Array:
    variant = bundle.variants[0]
    pad_id = bundle.manifest.text_processor.pad_id if bundle.manifest.text_processor else 0
    session = open_variant(bundle, variant, bundle.model_path(variant), pad_id)
    batches = batches_of(as_samples(texts), preprocessor, batch)
    rows = np.concatenate([session.run(feeds)[OUTPUT] for feeds, _ in batches])
    result = np.empty_like(rows)
    result[batches.order] = rows
    return result


def row(precision: str, made: dict[str, Path], pairs: Pairs, original: Array, preprocessor: Processor) -> str:
    with open_bundle(made["coreml"], force=True) as bundle:
        started = time.perf_counter()
        found = encode(bundle, pairs.texts, preprocessor, 1)
        seconds = (time.perf_counter() - started) / len(found)
        size = bundle.variants[0].size_bytes
        bound = next(
            (g.threshold for g in bundle.manifest.gates if "relative_error_to_onnx" in g.metric), None
        )
    low, high = interval(found, original, pairs)
    similar = cosines(original, found)
    parity = "ONNX has no such format"
    if "cpu" in made:
        with open_bundle(made["cpu"], force=True) as other:
            onnx = encode(other, pairs.texts, preprocessor, 1)
        relative = np.linalg.norm(found - onnx, axis=1) / np.linalg.norm(onnx, axis=1)
        parity = f"{relative.mean():.4f} (bound {bound:.4f}), cosine {cosines(onnx, found).mean():.5f}"
    score = 100 * spearman(similarity(found), pairs.scores)
    return (
        f"| {precision} | {size / 1e6:.1f} | {score:.2f} | {low:+.2f} to {high:+.2f} | {similar.mean():.4f} / "
        f"{np.quantile(similar, 0.01):.4f} / {similar.min():.4f} | {parity} | {1e3 * seconds:.0f} |"
    )


def timings(bundle_path: Path, goldens: int, preprocessor: Processor, texts: list[str]) -> None:
    """The interpreter at 128 tokens, and the replay of golden cases, repeated until there are enough of them."""
    with open_bundle(bundle_path, force=True) as bundle:
        variant = bundle.variants[0]
        session = open_variant(bundle, variant, bundle.model_path(variant), 0)
        feeds: Any = full_batch(preprocessor(as_samples(texts[:16])), 128)
        session.run(feeds)
        taken = []
        for _ in range(5):
            started = time.perf_counter()
            session.run(feeds)
            taken.append(time.perf_counter() - started)
        cases = len(bundle.golden_cases())
    print(f"\none text of 128 tokens through the interpreter: {np.median(taken):.2f} s (median of 5)")
    started = time.perf_counter()
    command = [sys.executable, "-m", "edgeq", "validate", str(bundle_path), "--quiet", "--json", "--force"]
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    print(f"edgeq validate, {cases} golden cases, whole process: {seconds:.1f} s")
    started = time.perf_counter()
    for index in range(goldens):
        session.run(preprocessor([Text(" ".join(texts[index : index + 12]))]))
    print(f"{goldens} texts of up to 128 tokens: {time.perf_counter() - started:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="the model; the sample model when left out")
    parser.add_argument("--calib", help="calibration texts; the built-in ones when left out")
    parser.add_argument("--sts", nargs="+", type=Path, required=True)
    parser.add_argument("--pairs", type=int, help="a random subset of the pairs")
    parser.add_argument("--goldens", type=int, default=16)
    parser.add_argument(
        "--precisions", nargs="+", default=["fp16", "int8", "q8", "int4", "palette4", "palette6"]
    )
    arguments = parser.parse_args()
    pairs = read_pairs(arguments.sts, arguments.pairs)
    exported = load_model(arguments.model or sample_model_path(), seq_len=128)
    preprocessor = exported.preprocessor
    batches = batches_of(as_samples(pairs.texts), preprocessor, 32)
    original = np.empty((len(pairs.texts), 384), np.float32)
    original[batches.order] = np.concatenate([exported.reference(feeds)[OUTPUT] for feeds, _ in batches])
    print(f"{len(pairs.scores)} pairs; {cpu_name()}, {platform.machine()}; level: simulated")
    print(f"original: {100 * spearman(similarity(original), pairs.scores):.2f}")
    print(
        "| precision | MB | STS Spearman | difference, 95 % interval | cosine mean / p1 / min | to ONNX | ms a text |"
    )
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="edgeq-bench-") as name:
        made = {}
        for precision in arguments.precisions:
            try:
                made[precision] = export(arguments.model, precision, arguments.calib, Path(name))
            except EdgeqError as error:
                print(f"| {precision} | {error} |")
                continue
            print(row(precision, made[precision], pairs, original, preprocessor), flush=True)
        first = next(iter(made.values()))["coreml"]
        timings(first, arguments.goldens, preprocessor, pairs.first)


if __name__ == "__main__":
    main()
