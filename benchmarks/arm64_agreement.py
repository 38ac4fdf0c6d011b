"""How far x86-64 and ARM64 disagree about the same model file, and how far quantization moved it.

    python benchmarks/arm64_agreement.py MODEL.onnx --tokenizer tokenizer.json --texts texts.txt

From a float32 model it makes the stock quantizations (onnxruntime.quantization), adds the files of --also,
runs each on the same texts with this machine's x86-64 runtime and with the ARM64 one (edgeq doctor --setup
arm64), and prints per output:

    x86-ARM max-abs  largest difference between the two machines
    x86-ARM cosine   smallest cosine similarity between the two, over samples
    quantization     largest difference between the float32 original and the variant, both on x86-64
    kernels          MatMuls that run in integers + in float after each runtime's own optimization, x86-64 | ARM64
    ratio            x86-ARM max-abs / quantization: above 1, the machine matters more than the quantization
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edgeq.onnx_runtime import session_options
from edgeq.runtime.executors import Executor, open_executor
from edgeq.types import Array, Feeds, Outputs


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    variant: str
    output: str
    machines_max_abs: float
    machines_cosine_min: float
    identical: bool
    quantization_max_abs: float
    quantization_cosine_min: float
    kernels_x86: str
    kernels_arm: str


def main() -> None:
    arguments = _parse()
    texts = arguments.texts.read_text(encoding="utf-8").split("\n")
    texts = [text.strip() for text in texts if text.strip()]
    here = open_executor("native")
    there = open_executor("arm64", cpu=arguments.cpu)
    with tempfile.TemporaryDirectory() as name:
        encode = _encoder(arguments.tokenizer, arguments.model)
        batches = [encode(text) for text in texts[: arguments.samples]]
        calibration = [encode(text) for text in texts[arguments.samples :][: arguments.calibration_samples]]
        variants = {"fp32": arguments.model}
        variants |= dict(_stock_variants(arguments.model, calibration, Path(name), arguments.only))
        variants |= {_label(path): path for path in arguments.also}
        print(_machine(here, there, len(batches), len(calibration)), file=sys.stderr)
        reference = here.run(arguments.model, batches)
        rows = []
        for variant, path in variants.items():
            kernels = (_kernels(path, here), _kernels(path, there))
            feeds = [_fit(batch, path) for batch in batches]
            rows += _compare(variant, reference, here.run(path, feeds), there.run(path, feeds), kernels)
            print(_as_markdown(rows[-1:]), file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        print(_HEADER + "\n" + _as_markdown(rows))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path, help="float32 ONNX model")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json")
    parser.add_argument("--texts", type=Path, required=True, help="one text a line")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="further variants of the same model")
    parser.add_argument(
        "--only", nargs="*", choices=tuple(_STOCK), default=tuple(_STOCK), help="stock variants"
    )
    parser.add_argument("--samples", type=int, default=8, help="texts compared, from the beginning")
    parser.add_argument("--calibration-samples", type=int, default=64, help="the texts after those")
    parser.add_argument("--cpu", default="cortex-a76", help="emulated core")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _encoder(tokenizer: Path, model: Path) -> Callable[[str], Feeds]:
    """Text to the inputs the model has."""
    import onnxruntime as ort
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_file(str(tokenizer))
    encoder.no_padding()
    encoder.enable_truncation(128)
    session = ort.InferenceSession(str(model), session_options(), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]

    def encode(text: str) -> Feeds:
        ids = encoder.encode(text).ids
        feeds = {"input_ids": ids, "attention_mask": [1] * len(ids), "token_type_ids": [0] * len(ids)}
        return {name: np.array([feeds[name]], np.int64) for name in names}

    return encode


def _label(path: Path) -> str:
    """A bundle's variants are all called model.onnx, in folders of their names."""
    return path.parent.name if path.stem == "model" else path.stem


def _fit(feeds: Feeds, model: Path) -> Feeds:
    """The feeds in the types and fixed lengths that a variant takes."""
    import onnxruntime as ort

    types = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32}
    fitted = {}
    for item in ort.InferenceSession(
        str(model), session_options(), providers=["CPUExecutionProvider"]
    ).get_inputs():
        value = feeds[item.name]
        length = item.shape[1] if isinstance(item.shape[1], int) else value.shape[1]
        fitted[item.name] = np.pad(value, ((0, 0), (0, length - value.shape[1]))).astype(types[item.type])
    return fitted


class _Calibration:
    """What quantize_static reads calibration data from."""

    def __init__(self, batches: list[Feeds]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> Feeds | None:
        return next(self._batches, None)


def _dynamic(model: Path, calibration: list[Feeds], output: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(model, output, weight_type=QuantType.QInt8)


def _static(activation: str, operators: list[str] | None) -> Callable[[Path, list[Feeds], Path], None]:
    def quantize(model: Path, calibration: list[Feeds], output: Path) -> None:
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        quantize_static(
            model,
            output,
            _Calibration(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=operators,
            per_channel=True,
            activation_type=getattr(QuantType, activation),
            weight_type=QuantType.QInt8,
        )

    return quantize


def _int4(accuracy_level: int) -> Callable[[Path, list[Feeds], Path], None]:
    def quantize(model: Path, calibration: list[Feeds], output: Path) -> None:
        import onnx
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        quantizer = MatMulNBitsQuantizer(
            onnx.load(model), block_size=32, is_symmetric=True, accuracy_level=accuracy_level
        )
        quantizer.process()
        quantizer.model.save_model_to_file(str(output))

    return quantize


_STOCK: dict[str, Callable[[Path, list[Feeds], Path], None]] = {
    "dynamic-int8": _dynamic,
    "static-matmul-u8": _static("QUInt8", ["MatMul", "Gemm"]),
    "static-matmul-s8": _static("QInt8", ["MatMul", "Gemm"]),
    "static-all-u8": _static("QUInt8", None),
    "static-all-s8": _static("QInt8", None),
    "int4-level0": _int4(0),
    "int4-level4": _int4(4),
}


def _stock_variants(
    model: Path, calibration: list[Feeds], folder: Path, wanted: list[str]
) -> Iterator[tuple[str, Path]]:
    for name in wanted:
        path = folder / f"{name}.onnx"
        _STOCK[name](model, calibration, path)
        yield name, path


def _kernels(model: Path, executor: Executor) -> str:
    """`integer+float` MatMuls of the graph as the executor's runtime optimizes it."""
    import onnx
    import onnxruntime as ort

    from edgeq.runtime.arm64.executor import EmulatedArm64Executor
    from edgeq.targets.kernels import BLOCK_MATMULS, FLOAT_MATMULS, INTEGER_MATMULS

    with tempfile.TemporaryDirectory() as name:
        optimized = Path(name) / "optimized.onnx"
        if isinstance(executor, EmulatedArm64Executor):
            executor.save_optimized(model, optimized)
        else:
            options = session_options()
            options.optimized_model_filepath = str(optimized)
            ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        operators = [node.op_type for node in onnx.load(optimized, load_external_data=False).graph.node]
    integer = sum(operator in INTEGER_MATMULS | BLOCK_MATMULS for operator in operators)
    return f"{integer}+{sum(operator in FLOAT_MATMULS for operator in operators)}"


def _compare(
    variant: str,
    reference: list[Outputs],
    x86: list[Outputs],
    arm: list[Outputs],
    kernels: tuple[str, str],
) -> list[Row]:
    rows = []
    for output in x86[0]:
        original, here, there = ([batch[output] for batch in side] for side in (reference, x86, arm))
        rows.append(
            Row(
                variant=variant,
                output=output,
                machines_max_abs=_max_abs(here, there),
                machines_cosine_min=_cosine_min(here, there),
                identical=all(np.array_equal(a, b) for a, b in zip(here, there, strict=True)),
                quantization_max_abs=_max_abs(original, here),
                quantization_cosine_min=_cosine_min(original, here),
                kernels_x86=kernels[0],
                kernels_arm=kernels[1],
            )
        )
    return rows


def _max_abs(left: list[Array], right: list[Array]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(left, right, strict=True))


def _cosine_min(left: list[Array], right: list[Array]) -> float:
    """Smallest cosine over all vectors along the last axis."""
    lowest = 1.0
    for a, b in zip(left, right, strict=True):
        a, b = a.astype(np.float64), b.astype(np.float64)
        norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        lowest = min(lowest, float(((a * b).sum(-1) / norms).min()))
    return lowest


_HEADER = """\
| variant | output | x86-ARM max-abs | x86-ARM cosine | quantization max-abs | quantization cosine | ratio | kernels |
|---|---|---|---|---|---|---|---|"""


def _as_markdown(rows: list[Row]) -> str:
    return "\n".join(
        f"| {row.variant} | {row.output} | {'identical' if row.identical else f'{row.machines_max_abs:.2g}'} "
        f"| {row.machines_cosine_min:.6f} | {row.quantization_max_abs:.2g} "
        f"| {row.quantization_cosine_min:.6f} | {_ratio(row)} | {row.kernels_x86}, {row.kernels_arm} |"
        for row in rows
    )


def _ratio(row: Row) -> str:
    if row.quantization_max_abs == 0:
        return "-"
    return f"{row.machines_max_abs / row.quantization_max_abs:.2g}"


def _machine(here: Executor, there: Executor, samples: int, calibration: int) -> str:
    sides = "; ".join(f"{side.environment['cpu']} ({side.verification})" for side in (here, there))
    version = here.environment["onnxruntime"]
    counts = f"{samples} texts, {calibration} calibration texts"
    return f"onnxruntime {version}, python {platform.python_version()}; {sides}; {counts}"


if __name__ == "__main__":
    main()
