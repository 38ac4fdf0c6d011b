"""Every text-encoder architecture, tiny and random: exported, quantized, lowered to both Android variants, validated.

    python benchmarks/architectures.py [--task sequence-classification] [--precision int8]

Prints which reach one NNAPI partition and, for the others, how many partitions and why.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from from_tests import support

from edgeq.comparison import GateRequest
from edgeq.errors import GateError
from edgeq.exporters import ARCHITECTURES
from edgeq.pipeline.export import run_export
from edgeq.pipeline.plan import TargetResult
from edgeq.pipeline.request import ExportRequest
from edgeq.quantize.recipes import load_recipe
from edgeq.types import Precision, Task


def export(architecture: str, task: Task, precision: Precision, folder: Path) -> TargetResult:
    """One export; a random model's quality gate is judged by the table, not by an exit code."""
    model = support("tiny_models").build_tiny_model(folder / "model", architecture, task)
    request = ExportRequest(
        model=str(model),
        recipe=load_recipe(str(precision)),
        output=folder / "bundle",
        seq_len=32,
        calib_samples=64,
        gates=(GateRequest("cosine_mean", ">=", 0.0),),
    )
    [result] = run_export(request)
    return result


def row(architecture: str, task: Task, precision: Precision) -> str:
    """A line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = export(architecture, task, precision, Path(folder))
        except GateError as error:
            return f"| {architecture} | gate: {error.message} |"
        cells = []
        for variant in result.bundle.manifest.variants:
            worst = min(m["cosine_mean"] for m in result.measured[variant.id].fidelity.values())
            cells.append(f"{worst:.5f}")
            if variant.id.startswith("nnapi"):
                nodes = variant.placement["nodes"]
                taken = nodes["NnapiExecutionProvider"]
                why = "; ".join(
                    f"{reason} ({count})" for reason, count in list(variant.placement["reasons"].items())[:4]
                )
                cells.append(
                    f"{taken}/{sum(nodes.values())} | {variant.placement['partitions']} | {why or '-'}"
                )
        return f"| {architecture} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="feature-extraction", choices=[str(task) for task in Task])
    parser.add_argument("--precision", default="int8", choices=[str(item) for item in Precision])
    parser.add_argument("--only", nargs="*", default=list(ARCHITECTURES))
    arguments = parser.parse_args()
    print(f"{arguments.task}, {arguments.precision}, 32 tokens, tiny random weights")
    print("| architecture | cpu cosine | nnapi cosine | NNAPI nodes | partitions | refused |")
    print("|---|---|---|---|---|---|")
    for architecture in arguments.only:
        print(row(architecture, Task(arguments.task), Precision(arguments.precision)), flush=True)


if __name__ == "__main__":
    main()
