"""What each Core ML precision of a sentence encoder costs and keeps, measured on the saved package.

    python benchmarks/coreml_minilm.py --calibration texts.txt --sts sts13-*.tsv [--model FOLDER] [--pairs N]
        [--only int8-w8a8 ...] [--json]

Every variant is lowered to an `.mlpackage`, read back by edgeq's interpreter (level: simulated) and run on
the sentences of the STS files one at a time. Printed: package size, Spearman x 100 against the gold scores,
and the cosine between its embeddings and those of the original float32 graph under ONNX Runtime.

STS files have one pair per line: score, sentence, sentence, separated by tabs. Calibration: one text per
line, or the SICK format (tab separated with a header; its second column is used).
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeq.exporters import load_model, sample_model_path
from edgeq.metrics import cosines, spearman
from edgeq.quantize.batches import batches_of
from edgeq.quantize.calibrate import observe
from edgeq.quantize.instrument import run, session_of
from edgeq.quantize.simulate import simulate
from edgeq.quantize.sites import Sites, find_sites, weight_of
from edgeq.quantize.static_int8 import StaticInt8Quantizer, StaticInt8Settings
from edgeq.quantize.statistics import Statistics
from edgeq.quantize.weight_only import LayerStats, WeightSpec, quantize
from edgeq.targets.coreml.decisions import Int8Weight, PaletteWeight, WeightDecision
from edgeq.targets.coreml.interpreter.machine import MilInterpreter
from edgeq.targets.coreml.lowering import lower_to_mil
from edgeq.targets.coreml.package import package_size
from edgeq.targets.coreml.plan import from_quantized_weight, from_static_plan
from edgeq.types import Array, Preprocessor

LENGTHS = (8, 16, 24, 32, 48, 64, 96, 128, 256)
IOS = 18
OUTPUT = "sentence_embedding"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    variant: str
    megabytes: float
    spearman: float
    cosine_mean: float
    cosine_p01: float
    cosine_min: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Bench:
    """The model and its calibration."""

    model: ir.Model
    preprocessor: Preprocessor
    texts: Sequence[str]
    statistics: Statistics
    sites: Sites

    def stats_of(self, tensor: str) -> LayerStats:
        """What weight-only methods need of a layer's input."""
        found = self.statistics[tensor]
        return LayerStats(found.channel_mean_square.astype(np.float32), found.rows, found.gram)


def fp16(bench: Bench, output: Path) -> None:
    lower_to_mil(bench.model, output, ios=IOS, seq_lens=LENGTHS)


def int8_weights(bench: Bench, output: Path) -> None:
    names = [*(site.weight for site in bench.sites.linears), *(site.table for site in bench.sites.embeddings)]
    lower_to_mil(
        bench.model, output, ios=IOS, seq_lens=LENGTHS, weights={name: Int8Weight() for name in names}
    )


def int8_static(bench: Bench, output: Path) -> None:
    """SmoothQuant strength, ranges and bias correction chosen on the last fifth of the calibration text."""
    cut = len(bench.texts) * 4 // 5
    fit = batches_of(bench.texts[:cut], bench.preprocessor)
    held = list(batches_of(bench.texts[cut:], bench.preprocessor))
    exact = [_embed(bench.model, feeds) for feeds, _ in held]

    def evaluate(equalized: ir.Model, plan: Any) -> float:
        twin = simulate(equalized, plan)
        with session_of(twin, [OUTPUT], None) as session:
            found = [run(session, [OUTPUT], feeds)[0] for feeds, _ in held]
        return float(1 - np.mean(cosines(np.concatenate(exact), np.concatenate(found))))

    quantizer = StaticInt8Quantizer(
        bench.model, StaticInt8Settings(), lambda model, tensors: observe(model, tensors, fit), evaluate, _log
    )
    result = quantizer.run()
    planned = from_static_plan(result.equalized, result.plan)
    lower_to_mil(
        planned.model,
        output,
        ios=IOS,
        seq_lens=LENGTHS,
        weights=planned.weights,
        activations=planned.activations,
    )


def int4(bench: Bench, output: Path, *, method: str, block: int) -> None:
    spec = WeightSpec(bits=4, block_size=block)
    decisions: dict[str, WeightDecision] = {
        site.weight: from_quantized_weight(
            quantize(method, weight_of(bench.model, site), spec, bench.stats_of(site.input))
        )
        for site in bench.sites.linears
    }
    for site in bench.sites.embeddings:
        tensor = bench.model.graph.initializers[site.table].const_value
        assert tensor is not None
        table = np.ascontiguousarray(tensor.numpy().T)
        decisions[site.table] = from_quantized_weight(quantize("scale_search", table, spec))
    lower_to_mil(bench.model, output, ios=IOS, seq_lens=LENGTHS, weights=decisions)


def palette(bench: Bench, output: Path, *, bits: int, group: int | None) -> None:
    decisions: dict[str, WeightDecision] = {
        site.weight: PaletteWeight(bits, group, bench.stats_of(site.input).mean_square)
        for site in bench.sites.linears
    }
    decisions |= {site.table: Int8Weight() for site in bench.sites.embeddings}
    lower_to_mil(bench.model, output, ios=IOS, seq_lens=LENGTHS, weights=decisions)


VARIANTS: dict[str, Callable[[Bench, Path], None]] = {
    "fp16": fp16,
    "int8-w8a8": int8_static,
    "int8-weights": int8_weights,
    "int4-block32-rtn": partial(int4, method="rtn", block=32),
    "int4-block32-gptq": partial(int4, method="gptq", block=32),
    "palette4": partial(palette, bits=4, group=None),
    "palette4-group16": partial(palette, bits=4, group=16),
    "palette6": partial(palette, bits=6, group=None),
}


def main() -> None:
    arguments = _parse()
    exported = load_model(arguments.model or sample_model_path())
    model, preprocessor = exported.canonical.model, exported.preprocessor
    texts = _texts(arguments.calibration)[: arguments.calibration_samples]
    sites = find_sites(model)
    started = time.perf_counter()
    statistics = observe(model, sites.activation_inputs(), batches_of(texts, preprocessor), gram=True)
    bench = Bench(model, preprocessor, texts, statistics, sites)
    pairs = _pairs(arguments.sts, arguments.pairs)
    sentences = sorted({sentence for _, *both in pairs for sentence in both})
    reference = _original(bench, sentences)
    print(
        f"{platform.machine()}, {platform.system()}, {len(pairs)} pairs, {len(sentences)} sentences, "
        f"{len(texts)} calibration texts ({time.perf_counter() - started:.0f} s); level: simulated",
        file=sys.stderr,
    )
    print(
        f"original fp32 (ONNX Runtime): Spearman {_score(pairs, sentences, reference):.2f}", file=sys.stderr
    )
    rows = []
    for name in arguments.only or VARIANTS:
        rows.append(_measure(name, bench, pairs, sentences, reference, arguments.keep))
        if not arguments.json:
            print(_line(rows[-1]), flush=True)
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))


def _measure(
    name: str,
    bench: Bench,
    pairs: list[tuple[float, str, str]],
    sentences: list[str],
    reference: Array,
    keep: Path | None,
) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        path = (keep or Path(folder)) / f"{name}.mlpackage"
        VARIANTS[name](bench, path)
        size = package_size(path)
        started = time.perf_counter()
        found = _interpret(MilInterpreter(path), bench.preprocessor, sentences)
    seconds = time.perf_counter() - started
    similar = cosines(reference, found)
    return Row(
        variant=name,
        megabytes=size / 1e6,
        spearman=_score(pairs, sentences, found),
        cosine_mean=float(similar.mean()),
        cosine_p01=float(np.quantile(similar, 0.01)),
        cosine_min=float(similar.min()),
        seconds=seconds,
    )


def _interpret(interpreter: MilInterpreter, preprocessor: Preprocessor, sentences: list[str]) -> Array:
    """One sentence at a time at the smallest declared length that holds it."""
    lengths = preprocessor.token_lengths(sentences)
    embeddings = []
    for sentence, length in zip(sentences, lengths, strict=True):
        room = next(size for size in LENGTHS if size >= min(length, LENGTHS[-1]))
        embeddings.append(interpreter.run(preprocessor([sentence], pad_to=room))[OUTPUT])
    return np.concatenate(embeddings)


def _original(bench: Bench, sentences: list[str]) -> Array:
    with session_of(bench.model, [OUTPUT], None) as session:
        batches = [sentences[start : start + 32] for start in range(0, len(sentences), 32)]
        return np.concatenate([run(session, [OUTPUT], bench.preprocessor(batch))[0] for batch in batches])


def _embed(model: ir.Model, feeds: Any) -> Array:
    with session_of(model, [OUTPUT], None) as session:
        return run(session, [OUTPUT], feeds)[0]


def _score(pairs: list[tuple[float, str, str]], sentences: list[str], embeddings: Array) -> float:
    row = {sentence: index for index, sentence in enumerate(sentences)}
    left = embeddings[[row[first] for _, first, _ in pairs]]
    right = embeddings[[row[second] for _, _, second in pairs]]
    return 100 * spearman(np.array([gold for gold, _, _ in pairs]), cosines(left, right))


def _pairs(files: Sequence[Path], limit: int | None) -> list[tuple[float, str, str]]:
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    pairs = [(float(gold), first, second) for gold, first, second in (line.split("\t") for line in lines)]
    order = np.random.default_rng(0).permutation(len(pairs))[:limit]
    return [pairs[index] for index in order]


def _texts(file: Path) -> list[str]:
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if "\t" not in lines[0]:
        return lines
    return list(dict.fromkeys(line.split("\t")[1] for line in lines[1:]))


def _log(trial: Any) -> None:
    print(f"  {trial.setting}: {trial.error:.5f}", file=sys.stderr)


def _line(row: Row) -> str:
    return (
        f"{row.variant:20} {row.megabytes:6.2f} MB  STS {row.spearman:6.2f}  cos {row.cosine_mean:.5f} "
        f"p01 {row.cosine_p01:.4f} min {row.cosine_min:.4f}  {row.seconds:.0f} s"
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--model", type=Path, help="a sentence-transformers folder; default: the sample model"
    )
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--calibration-samples", type=int, default=512)
    parser.add_argument("--sts", type=Path, nargs="+", required=True)
    parser.add_argument("--pairs", type=int, help="a random subset of the pairs")
    parser.add_argument("--only", nargs="+", choices=VARIANTS)
    parser.add_argument("--keep", type=Path, help="folder to keep the packages in")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
