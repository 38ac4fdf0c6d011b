"""How to choose int8 weights whose sums are exact on every CPU, and what each way costs: all-MiniLM-L6-v2.

    python benchmarks/exactness.py --calib texts.tsv --sts sts13-a.tsv sts13-b.tsv [--json results.json]

One calibration, one plan (strength of equalization and ranges chosen as in an export, no bias correction); only the
codes of the linear layers differ. Each file runs twice: with the kernels that this CPU has by itself, and with exact
sums. `saturating layers` is what an emulation of kernels that add pairs of products in 16 bits finds, on whatever CPU:
layers whose product of real activations is not the exact one. Then error feedback with few calibration texts, and
how far the channel scales of the NNAPI variant should follow the ranges of its outputs.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from minilm import correlation, encode, read_pairs

import edgeq.targets.android.nnapi_qdq as nnapi_qdq
from edgeq.calibration import load_samples
from edgeq.exporters import load_model, sample_model_path
from edgeq.graph.static_weight import StaticWeight, nearest_codes
from edgeq.metrics import cosines
from edgeq.numerics import symmetric_scale
from edgeq.onnx_runtime import kernels_saturate
from edgeq.pipeline.forward.data import divide, wanted_samples
from edgeq.pipeline.quantizing import Quantized, quantize_model
from edgeq.pipeline.saturating import saturated_layers
from edgeq.progress import SilentProgress
from edgeq.quantize.recipes import load_recipe
from edgeq.quantize.recipes.schema import StaticOptions
from edgeq.quantize.sites import find_sites, weight_of
from edgeq.runtime.adapter import FeedAdapter, Signature
from edgeq.runtime.host import cpu_name
from edgeq.runtime.session import VariantSession
from edgeq.samples import as_samples
from edgeq.targets import get_target
from edgeq.targets.target import LoweringOptions

CALIBRATION = 256
FEW = (24, 64, 256)
SHARES = (0.0, 0.3, 0.5, 1.0)
LENGTH = 128

Rounding = Callable[[np.ndarray], StaticWeight]


def in_bits(weight: np.ndarray, bits: int) -> StaticWeight:
    """Nearest codes of so many bits, whatever their pairs add up to."""
    scale = symmetric_scale(np.abs(weight).max(axis=0), bits)
    return StaticWeight(np.rint(weight / scale).astype(np.int8), scale)


ROUNDINGS: Mapping[str, Rounding | None] = {
    "8 bits, nearest": partial(in_bits, bits=8),
    "7 bits, nearest": partial(in_bits, bits=7),
    "pair-safe, nearest": nearest_codes,
    "pair-safe, error feedback (edgeq)": None,
}
"""How codes are chosen; None keeps those of the plan."""


class Bench:
    """The model, its texts, and how files are made and judged.

    Args:
        arguments: of the command line.
        folder: for files.
    """

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.folder = folder
        self.exported = load_model(arguments.model or sample_model_path())
        self.preprocessor = self.exported.preprocessor.fit(LENGTH)
        self.calib = arguments.calib
        self.pairs = read_pairs(arguments.sts)
        self.texts = [*self.pairs.first, *self.pairs.second]
        self.original = self.reference()
        self.files = 0

    def reference(self) -> np.ndarray:
        """The original's embeddings."""

        class Original:
            run = staticmethod(self.exported.reference)

        return encode(Original(), self.texts, self.preprocessor)  # type: ignore[arg-type]

    def quantized(self, samples: int = CALIBRATION, **fixed: Any) -> Quantized:
        """The plan of an export with so many calibration texts and some settings fixed."""
        data = divide(
            load_samples(self.calib, count=wanted_samples(samples)),
            self.exported.preprocessor,
            calibration_samples=samples,
            entry=self.exported.head.entry,
            max_length=LENGTH,
        )
        recipe = replace(load_recipe("int8"), static_int8=StaticOptions(bias_correction=False, **fixed))
        return quantize_model(self.exported.canonical, data, recipe, SilentProgress())

    def written(self, engine: str, quantized: Quantized) -> tuple[Path, Signature, Any]:
        """A file of one engine, its inputs and outputs, and the level it is opened at."""
        target = get_target("android")
        spec = next(item for item in target.variants(quantized.recipe) if item.engine == engine)
        self.files += 1
        folder = self.folder / f"file{self.files}"
        folder.mkdir()
        options = LoweringOptions(seq_len=LENGTH)
        lowered = target.lower(spec, quantized.lowering_input(self.exported.canonical), options, folder)  # type: ignore[attr-defined]
        return lowered.model, Signature(lowered.inputs, lowered.outputs), spec.level

    def judged(self, path: Path, signature: Signature, level: Any) -> dict[str, Any]:
        """What a file is worth with this CPU's own kernels and with exact sums."""
        vectors = [
            encode(
                VariantSession(path, signature, level=level, exact=exact, spin=False),
                self.texts,
                self.preprocessor,
            )
            for exact in (False, True)
        ]
        found: dict[str, Any] = {"equal": float((vectors[0] == vectors[1]).all(axis=1).mean())}
        for name, rows in zip(("own", "exact"), vectors, strict=True):
            similarity = cosines(self.original, rows)
            spread = (similarity.mean(), np.percentile(similarity, 1), similarity.min())
            found[name] = {"sts": correlation(rows, self.pairs), "cosine": [float(value) for value in spread]}
        return found


def with_rounding(quantized: Quantized, rounding: Rounding | None) -> Quantized:
    """The same plan with other codes."""
    if rounding is None:
        return quantized
    weights = {
        site.weight: rounding(weight_of(quantized.graph, site))
        for site in find_sites(quantized.graph).linears
        if site.weight in quantized.static
    }
    return replace(quantized, static=weights)


def widening(quantized: Quantized) -> float:
    """Scales over those of 8 bits without a bound, geometric mean over layers."""
    found = [
        quantized.static[site.weight].widening(weight_of(quantized.graph, site))
        for site in find_sites(quantized.graph).linears
        if site.weight in quantized.static
    ]
    return float(np.exp(np.mean(np.log(found))))


def row_of(name: str, first: str, found: Mapping[str, Any]) -> str:
    """A line of a table."""
    cells = [
        f"{found[kind]['sts']:.2f}; " + " / ".join(f"{value:.5f}" for value in found[kind]["cosine"])
        for kind in ("own", "exact")
    ]
    return f"| {name} | {first} | {' | '.join(cells)} | {found['equal']:.0%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="the model; the sample model when left out")
    parser.add_argument("--calib", help="calibration texts; the built-in ones when left out")
    parser.add_argument("--sts", nargs="+", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgeq-bench-") as name:
        document = run(Bench(arguments, Path(name)))
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=2))


def run(bench: Bench) -> dict[str, Any]:
    kernels = "saturate in 16 bits" if kernels_saturate() else "are exact"
    print(f"{len(bench.pairs.scores)} pairs; {cpu_name()}, {platform.machine()}, whose own kernels {kernels}")
    print("each cell: STS Spearman; cosine mean / p1 / min to the original\n")
    quantized = bench.quantized(rounding="error-feedback")
    document = {"roundings": rounding_table(bench, quantized), "few": few_table(bench)}
    return document | {"nnapi": share_table(bench, quantized)}


def rounding_table(bench: Bench, quantized: Quantized) -> dict[str, Any]:
    """Codes by codes."""
    print("| codes of cpu-int8 | scales; saturating layers | this CPU's kernels | exact sums | bit-equal |")
    print("|---|---|---|---|---|")
    found = {}
    feeds = bench.preprocessor(as_samples(bench.texts[:8]))
    for name, rounding in ROUNDINGS.items():
        chosen = with_rounding(quantized, rounding)
        path, signature, level = bench.written("cpu", chosen)
        (piece,) = FeedAdapter(signature).pieces(feeds)
        saturated = saturated_layers(path, piece, level=level)
        wrong = sum(saturated.values())
        found[name] = bench.judged(path, signature, level) | {"saturating": wrong, "layers": len(saturated)}
        print(row_of(name, f"x{widening(chosen):.3f}; {wrong} of {len(saturated)}", found[name]), flush=True)
    return found


def few_table(bench: Bench) -> dict[str, Any]:
    """Error feedback beside nearest codes, by calibration texts."""
    print("\n| calibration texts | rounding | this CPU's kernels | exact sums | bit-equal |")
    print("|---|---|---|---|---|")
    found = {}
    for samples in FEW:
        for rounding in ("nearest", "error-feedback"):
            quantized = bench.quantized(samples, rounding=rounding, alpha=0.7, range_method="percentile")
            found[f"{samples} {rounding}"] = bench.judged(*bench.written("cpu", quantized))
            print(row_of(str(samples), rounding, found[f"{samples} {rounding}"]), flush=True)
    return found


def share_table(bench: Bench, quantized: Quantized) -> dict[str, Any]:
    """How far the scales of NNAPI's channels follow the output ranges."""
    print("\n| nnapi-int8, output share | | this CPU's kernels | exact sums | bit-equal |")
    print("|---|---|---|---|---|")
    found = {}
    whole = nnapi_qdq.quantize_gemms
    for share in SHARES:
        nnapi_qdq.quantize_gemms = partial(whole, output_share=share)
        try:
            found[str(share)] = bench.judged(*bench.written("nnapi", quantized))
        finally:
            nnapi_qdq.quantize_gemms = whole
        print(row_of(f"{share:g}", "", found[str(share)]), flush=True)
    return found


if __name__ == "__main__":
    main()
