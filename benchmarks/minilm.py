"""all-MiniLM-L6-v2 in int8: size, fidelity and speed of edgeq's variants and of stock ONNX Runtime, in one run.

    python benchmarks/minilm.py --calib texts.tsv --sts sts13-a.tsv sts13-b.tsv [--json results.json]

Fidelity: Spearman x100 over all pairs of the STS files, with a 95 % bootstrap interval of the difference to the
original, and the cosine of every sentence's embedding to the original's, with the kernels that an app gets on this CPU.
`exact` is the share of sentences whose embedding is bit for bit that of exact integer sums: on x86-64 without VNNI the
kernels saturate in 16 bits where weights let them, and a second row then shows the same file with exact sums.
`alone = batch` is the lowest cosine between a sentence alone and the same sentence in a padded batch. `fp32` is the
plain float32 export, as ONNX Runtime optimizes it by itself; the peers are made from the same file. Speed: interleaved
rounds, median of the ratios to it, thread spinning off for all.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.calibration import load_samples
from edgeq.comparison import batch_invariance
from edgeq.metrics import cosines, spearman
from edgeq.onnx_runtime import kernels_saturate, ordered_level
from edgeq.processors.text import TextPreprocessor
from edgeq.processors.text_padding import TEXT_PADDING, full_batch
from edgeq.quantize.batches import batches_of
from edgeq.runtime.adapter import HasSignature, Signature
from edgeq.runtime.host import cpu_name
from edgeq.runtime.runtime import load, load_preprocessor
from edgeq.runtime.session import VariantSession
from edgeq.runtime.timing import interleave
from edgeq.samples import as_samples
from edgeq.types import Feeds

CASES = ((1, 16), (1, 128), (8, 128))
OUTPUT = "sentence_embedding"
PEER_CALIBRATION = 256


@dataclass(frozen=True)
class Contender:
    """A model file, a session over it as an app opens it, and one with exact integer sums."""

    name: str
    path: Path
    session: VariantSession
    exact: VariantSession


def contender(name: str, path: Path, signature: HasSignature, requirements: Mapping[str, Any]) -> Contender:
    """Sessions at the level that a variant orders."""
    level = ordered_level(requirements)
    own, exact = (
        VariantSession(path, signature, spin=False, level=level, exact=exact) for exact in (False, True)
    )
    return Contender(name, path, own, exact)


@dataclass(frozen=True)
class Pairs:
    """Scored sentence pairs."""

    scores: np.ndarray
    first: list[str]
    second: list[str]


def read_pairs(paths: Sequence[Path]) -> Pairs:
    """Tab-separated: score, sentence, sentence; lines without a score are skipped."""
    rows = [line.rstrip("\n").split("\t") for path in paths for line in path.open(encoding="utf-8")]
    kept = [(float(row[0]), row[1], row[2]) for row in rows if len(row) >= 3 and _is_number(row[0])]
    return Pairs(np.array([row[0] for row in kept]), [row[1] for row in kept], [row[2] for row in kept])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def export(model: str | None, target: str, precision: str, calib: str | None, folder: Path) -> Path:
    """`edgeq export` as a process of its own."""
    output = folder / f"{target}-{precision}"
    command = [
        sys.executable,
        "-m",
        "edgeq",
        "export",
        "--target",
        target,
        "--precision",
        precision,
        "-o",
        str(output),
    ]
    command[4:4] = [] if model is None else [model]
    command += ["--quiet", *(["--calib", calib] if calib else [])]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return output


def plain_export(model: str | None, folder: Path) -> Path:
    """The float32 graph before any lowering."""
    import onnx_ir as ir

    from edgeq.exporters import load_model, sample_model_path

    path = folder / "plain.onnx"
    ir.save(load_model(model or sample_model_path()).canonical.model, path)
    return path


def stock_models(
    fp32: Path, folder: Path, calib: str | None, preprocessor: TextPreprocessor
) -> dict[str, Path]:
    """What ONNX Runtime's own tools make of the same float32 file and the same texts."""
    import logging

    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )

    logging.disable(logging.WARNING)
    samples = load_samples(calib, count=PEER_CALIBRATION).samples

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([feeds for feeds, _ in batches_of(samples, preprocessor)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    made = {
        name: folder / f"{name.replace(' ', '-')}.onnx"
        for name in ("stock dynamic", "stock static matmul", "stock static all")
    }
    quantize_dynamic(fp32, made["stock dynamic"], per_channel=True, weight_type=QuantType.QInt8)
    static = {
        "quant_format": QuantFormat.QDQ,
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
        "per_channel": True,
    }
    quantize_static(
        fp32, made["stock static matmul"], Reader(), op_types_to_quantize=["MatMul", "Gather"], **static
    )
    quantize_static(fp32, made["stock static all"], Reader(), **static)
    return made


def encode(session: VariantSession, texts: Sequence[str], preprocessor: TextPreprocessor) -> np.ndarray:
    """`[texts, hidden]`, in order."""
    batches = batches_of(as_samples(texts), preprocessor, 32)
    rows = np.concatenate([session.run(feeds)[OUTPUT] for feeds, _ in batches])
    result = np.empty_like(rows)
    result[batches.order] = rows
    return result


def correlation(vectors: np.ndarray, pairs: Pairs, rows: np.ndarray | None = None) -> float:
    """Spearman x100 of the cosine of each pair with its score."""
    count = len(pairs.scores)
    similarity = cosines(vectors[:count], vectors[count:])
    rows = np.arange(count) if rows is None else rows
    return 100 * spearman(similarity[rows], pairs.scores[rows])


def interval(
    vectors: np.ndarray, original: np.ndarray, pairs: Pairs, draws: int = 1000
) -> tuple[float, float]:
    """95 % paired bootstrap interval of the difference in Spearman x100."""
    rng = np.random.default_rng(0)
    count = len(pairs.scores)
    similarity = [cosines(v[:count], v[count:]) for v in (vectors, original)]
    found = []
    for _ in range(draws):
        rows = rng.integers(0, count, count)
        found.append(
            100
            * (
                spearman(similarity[0][rows], pairs.scores[rows])
                - spearman(similarity[1][rows], pairs.scores[rows])
            )
        )
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def fidelity(
    contenders: Sequence[Contender], pairs: Pairs, preprocessor: TextPreprocessor
) -> list[dict[str, object]]:
    """One row per contender; the first is the original."""
    texts = [*pairs.first, *pairs.second]
    original = encode(contenders[0].session, texts, preprocessor)
    probe = preprocessor(as_samples(texts[:16]))
    rows = []
    for item in contenders:
        own, exact = (encode(session, texts, preprocessor) for session in (item.session, item.exact))
        same = float((own == exact).all(axis=1).mean())
        found = [(item.name, item.session, own, same)]
        if same < 1:
            found.append((f"{item.name}, exact sums", item.exact, exact, 1.0))
        for name, session, vectors, share in found:
            similarity = cosines(original, vectors)
            rows.append(
                {
                    "name": name,
                    "mb": item.path.stat().st_size / 1e6,
                    "spearman": correlation(vectors, pairs),
                    "difference_interval": interval(vectors, original, pairs),
                    "cosine_mean": float(similarity.mean()),
                    "cosine_p01": float(np.percentile(similarity, 1)),
                    "cosine_min": float(similarity.min()),
                    "exact": share,
                    "alone_equals_batch": batch_invariance(session.run, probe, OUTPUT, TEXT_PADDING),
                }
            )
    return rows


def runner(session: VariantSession, feeds: Feeds) -> Callable[[], object]:
    """One run, as the timer wants it."""
    return lambda: session.run(feeds)


def speed(
    contenders: Sequence[Contender], preprocessor: TextPreprocessor, texts: Sequence[str], budget_s: float
) -> dict[str, dict[str, tuple[float, float]]]:
    """Latency ratio to the first contender and median milliseconds, per case."""
    feeds = preprocessor(as_samples(texts))
    found: dict[str, dict[str, tuple[float, float]]] = {item.name: {} for item in contenders}
    for batch, tokens in CASES:
        case = full_batch(feeds, tokens, batch)
        runs = {item.name: runner(item.session, case) for item in contenders}
        for name, timing in interleave(
            runs, baseline=contenders[0].name, rounds=60, budget_s=budget_s
        ).items():
            found[name][f"{batch}x{tokens}"] = (timing.ratio, timing.p50_ms)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="the model; the sample model when left out")
    parser.add_argument("--calib", help="calibration texts; the built-in ones when left out")
    parser.add_argument("--sts", nargs="+", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=20.0, help="seconds per speed case")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgeq-bench-") as name:
        folder = Path(name)
        document = run(arguments, folder)
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=2))


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    fp32 = export(arguments.model, "cpu", "fp32", arguments.calib, folder)
    android = export(arguments.model, "android", "int8", arguments.calib, folder)
    runtime = load(fp32)
    preprocessor = load_preprocessor(runtime.bundle)
    assert preprocessor is not None
    signature = Signature(runtime.inputs, runtime.outputs)
    fp32_path = plain_export(arguments.model, folder)
    contenders = [contender("fp32", fp32_path, signature, {})]
    path = runtime.bundle.model_path(runtime.variants[0])
    contenders.append(contender("edgeq cpu-fp32", path, signature, {}))
    int8 = load(android)
    for variant in int8.bundle.variants:
        path = int8.bundle.model_path(variant)
        contenders.append(contender(f"edgeq {variant.id}", path, variant, variant.requirements))
    for peer, path in stock_models(fp32_path, folder, arguments.calib, preprocessor).items():
        contenders.append(contender(peer, path, signature, {}))
    pairs = read_pairs(arguments.sts)
    judged = preprocessor.fit(128)
    rows = fidelity(contenders, pairs, judged)
    kernels = "saturate in 16 bits" if kernels_saturate() else "are exact"
    print(
        f"{len(pairs.scores)} pairs; {cpu_name()}, {platform.machine()}, whose uint8 x int8 kernels {kernels}"
    )
    print(
        "| | MB | STS Spearman | difference, 95 % interval | cosine mean / p1 / min | exact | alone = batch |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        low, high = row["difference_interval"]  # type: ignore[misc]
        print(
            f"| {row['name']} | {row['mb']:.1f} | {row['spearman']:.2f} | {low:+.2f} to {high:+.2f} | "
            f"{row['cosine_mean']:.4f} / {row['cosine_p01']:.4f} / {row['cosine_min']:.4f} | "
            f"{row['exact']:.0%} | {row['alone_equals_batch']:.4f} |"
        )
    dynamic = [c for c in contenders if c.session.static_length is None]
    times = speed(dynamic, preprocessor, pairs.first[:64], arguments.budget)
    print("\nlatency, of fp32 (median of interleaved ratios; ms); nnapi is static and not timed on a desktop")
    print("| | " + " | ".join(f"{batch}x{tokens}" for batch, tokens in CASES) + " |")
    print("|---|" + "---|" * len(CASES))
    for label, cases in times.items():
        print(f"| {label} | " + " | ".join(f"{ratio:.2f} ({ms:.1f})" for ratio, ms in cases.values()) + " |")
    return {"fidelity": rows, "speed": times}


if __name__ == "__main__":
    main()
