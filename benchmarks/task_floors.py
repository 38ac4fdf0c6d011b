"""What each kind of model loses: where the default floors of `edgeq.tasks` come from.

    python benchmarks/task_floors.py [KIND ...]

Small models trained here (tests/support/trained_models.py), and all-MiniLM-L6-v2 for embeddings, are exported as static
int8 and as int4, and beside them stand stock quantizations of the same float32 graph by ONNX Runtime: dynamic int8 and
4 bits rounded to nearest in blocks of 128. Every row is over 128 held-out texts against the original.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
import onnx
import onnx_ir as ir
from from_tests import support

from edgeq.calibration import load_samples
from edgeq.comparison import Run, compare_outputs, default_floors
from edgeq.exporters import load_model, sample_model_path
from edgeq.exporters.exported_model import ExportedModel
from edgeq.pipeline.forward.data import DataSets, divide
from edgeq.pipeline.forward.measure import open_session
from edgeq.pipeline.forward.onnx_variant import CalibrationFeeds
from edgeq.pipeline.quantizing import quantize_model
from edgeq.progress import SilentProgress
from edgeq.quantize.recipes import load_recipe
from edgeq.runtime.session import VariantSession
from edgeq.targets import get_target
from edgeq.targets.target import GraphTarget, LoweringOptions
from edgeq.tasks import TASKS, Head, Kind, head_of
from edgeq.types import Precision, Role, TensorSpec

KINDS = ("embedding", "single-label", "multi-label", "score", "tokens", "answers", "words")
EMBEDDING = "sentence_embedding"
CLASSES = 8


def main() -> None:
    for kind in sys.argv[1:] or KINDS:
        with TemporaryDirectory() as scratch:
            measure(kind, Path(scratch))


def measure(kind: str, scratch: Path) -> None:
    """Print one kind's table."""
    folder = (
        sample_model_path()
        if kind == "embedding"
        else support("trained_models").build_trained_model(scratch / kind, kind)
    )
    exported = load_model(folder)
    samples = load_samples(None, count=448, seed=0)
    limits = {"entry": exported.head.entry, "max_length": 128}
    data = divide(samples, exported.preprocessor, calibration_samples=256, **limits)
    head = head_of(exported.source, exported.canonical.outputs, exported.preprocessor.special_token_ids)
    runs = candidates(exported, data, scratch)
    compared = compare_outputs(exported.reference, runs, data.held_out, head)
    for output in (spec.name for spec in head.outputs):
        print_table(head, output, {name: item.metrics()[output] for name, item in compared.items()})
    if kind == "embedding":
        print_linear_heads(exported.reference, runs, data)


def print_linear_heads(reference: Run, runs: dict[str, Run], data: DataSets) -> None:
    """Heads on top of the embedding: its first principal directions as scores, as labels, and as classes.

    Fitted to nothing but the spread of the original's embeddings of the calibration texts: the signal of a real head
    is of that size, and the noise is that of the variant. Logits have a standard deviation of 4.
    """
    fitted = np.concatenate([reference(feeds)[EMBEDDING] for feeds, _ in data.calibration])
    mean = fitted.mean(axis=0)
    _, values, directions = np.linalg.svd(fitted - mean, full_matrices=False)
    weights = directions[:CLASSES].T / (values[:CLASSES] / np.sqrt(len(fitted)))
    for kind, scale, width in (
        (Kind.SCORE, 1, 1),
        (Kind.SCORE, 1, CLASSES),
        (Kind.MULTI_LABEL, 4, CLASSES),
        (Kind.SINGLE_LABEL, 4, CLASSES),
    ):
        head = Head(TASKS[kind], (TensorSpec("logits", "float32", ("batch", width), Role.LOGITS),))

        def logits(run: Run, scale: int = scale, width: int = width) -> Run:
            return lambda feeds: {"logits": scale * ((run(feeds)[EMBEDDING] - mean) @ weights[:, :width])}

        compared = compare_outputs(
            logits(reference), {name: logits(run) for name, run in runs.items()}, data.held_out, head
        )
        print(f"\nlinear head of width {width} on MiniLM")
        print_table(head, "logits", {name: item.metrics()["logits"] for name, item in compared.items()})


def print_table(head: Head, output: str, found: dict[str, dict[str, float]]) -> None:
    print(f"\n{head.entry.kind}, `{output}`")
    names = [name for name in head.entry.metrics if name in next(iter(found.values()))]
    print("| |" + " | ".join(names) + " |\n|---" * 1 + "|" + "---|" * len(names))
    for row, metrics in found.items():
        print(f"| {row} | " + " | ".join(f"{metrics[name]:.4g}" for name in names) + " |")
    for precision in Precision:
        floors = " ".join(str(floor) for floor in default_floors(head.entry, precision))
        print(f"floors {precision}: {floors}")


def candidates(exported: ExportedModel, data: DataSets, scratch: Path) -> dict[str, Run]:
    """Our variants and stock ones, by name."""
    fp32 = scratch / "fp32.onnx"
    ir.save(exported.canonical.model, fp32)
    makers: dict[str, Callable[[Path], None]] = {
        "stock dynamic int8": lambda path: stock_dynamic(fp32, path),
        "stock int4, blocks of 128": lambda path: stock_int4(fp32, path),
    }
    runs: dict[str, Run] = {}
    for name, make in makers.items():
        path = scratch / f"{name.replace(' ', '-')}.onnx"
        make(path)
        runs[name] = VariantSession(path, exported.canonical).run
    return runs | {f"edgeq {name}": ours(exported, data, name, scratch) for name in ("int8", "int4", "fp16")}


def ours(exported: ExportedModel, data: DataSets, recipe: str, scratch: Path) -> Run:
    """The CPU variant of a recipe."""
    quantized = quantize_model(exported.canonical, data, load_recipe(recipe), SilentProgress())
    target = cast("GraphTarget", get_target("android"))
    spec = next(item for item in target.variants(load_recipe(recipe)) if item.engine == "cpu")
    folder = scratch / recipe
    folder.mkdir()
    source = quantized.lowering_input(
        exported.canonical, calibration=CalibrationFeeds(data), about=exported.source
    )
    lowered = target.lower(spec, source, LoweringOptions(128, (128,), None), folder)
    return open_session(target, spec, lowered, exported.preprocessor.pad_id).run


def stock_dynamic(source: Path, path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(source, path)


def stock_int4(source: Path, path: Path) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load(source), block_size=128, is_symmetric=True)
    quantizer.process()
    quantizer.model.save_model_to_file(str(path))


if __name__ == "__main__":
    main()
