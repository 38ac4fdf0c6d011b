"""How a stock encoder export is cut by the NNAPI and Core ML providers, beside the usability checker's verdict.

    python benchmarks/placement_minilm.py MODEL.onnx [--dim batch=1 --dim sequence=128]

Prints one row per target and form: as shipped, after level-1 optimization, and what the checker says.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import onnxruntime

from edgeq.cli.check import parse_dims
from edgeq.targets.placement import Prediction, predict
from edgeq.targets.placement.usability import compare_with_usability_checker

TARGETS = (("android", "MLProgram"), ("coreml", "MLProgram"), ("coreml", "NeuralNetwork"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--dim", action="append", metavar="NAME=SIZE", default=[])
    arguments = parser.parse_args()
    dims = parse_dims(arguments.dim)
    print(f"model {arguments.model.name}, dims {dims}, onnxruntime {onnxruntime.__version__}\n")
    print("| provider | graph | nodes taken | partitions | largest partition |")
    print("|---|---|---|---|---|")
    for target, model_format in TARGETS:
        provider = "NNAPI" if target == "android" else f"Core ML {model_format}"
        started = time.perf_counter()
        report = predict(arguments.model, target=target, coreml_format=model_format, dims=dims)
        seconds = time.perf_counter() - started
        print_row(provider, f"as shipped ({seconds:.1f} s for both forms)", report.as_shipped)
        if report.optimized:
            print_row(provider, "after level 1", report.optimized)
        checker = compare_with_usability_checker(
            arguments.model, target=target, coreml_format=model_format, dims=dims
        )
        print(
            f"| {provider} | usability checker: {checker.verdict} | {checker.taken}/{checker.nodes} | "
            f"{checker.partitions} | |"
        )


def print_row(provider: str, form: str, prediction: Prediction) -> None:
    largest = max((len(nodes) for nodes in prediction.partition_nodes), default=0)
    print(
        f"| {provider} | {form} | {prediction.taken}/{prediction.nodes} | {prediction.partitions} | {largest} |"
    )


if __name__ == "__main__":
    main()
