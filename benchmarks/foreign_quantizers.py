"""4-bit quantizers that need an environment of their own, one per call; `pareto_minilm.py` calls this.

    PYTHON benchmarks/foreign_quantizers.py NAME fp32.onnx output.onnx feeds.npz

The environment has the same versions of onnx, onnxruntime and numpy as edgeq, and

    pip install olive-ai requests          # Olive imports requests without asking for it
    pip install --no-deps onnx-neural-compressor
    pip install onnxruntime-extensions psutil py-cpuinfo prettytable scipy

onnx-neural-compressor 1.0 asks for numpy < 2, but runs with 2.4; neural-compressor itself no longer takes ONNX models
(3.10 has PyTorch, TensorFlow and JAX alone). Every quantizer is asked for 4 bits in blocks of 32 and int8 arithmetic.
The last line printed is the CPU seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = ("olive rtn", "olive k_quant", "olive hqq", "inc rtn", "inc gptq", "inc awq")
BLOCK = 32


def main() -> None:
    name, source, output, feeds = sys.argv[1], *map(Path, sys.argv[2:5])
    started = time.process_time()
    if name.startswith("olive"):
        olive(name, source, output)
    else:
        neural_compressor(name, source, output, feeds)
    # Progress bars leave the cursor behind them.
    print(f"\n{time.process_time() - started}")


def olive(name: str, source: Path, output: Path) -> None:
    """One of Olive's passes for MatMul (and, where it has them, Gather)."""
    from olive.model import ONNXModelHandler
    from olive.passes.olive_pass import create_pass_from_dict
    from olive.passes.onnx.hqq_quantization import OnnxHqqQuantization
    from olive.passes.onnx.kquant_quantization import OnnxKQuantQuantization
    from olive.passes.onnx.rtn_quantization import OnnxBlockWiseRtnQuantization

    passes = {
        "olive rtn": (OnnxBlockWiseRtnQuantization, {"bits": 4, "block_size": BLOCK, "accuracy_level": 4}),
        "olive k_quant": (OnnxKQuantQuantization, {"bits": 4, "block_size": BLOCK, "accuracy_level": 4}),
        "olive hqq": (OnnxHqqQuantization, {"block_size": BLOCK, "accuracy_level": 4}),
    }
    kind, settings = passes[name]
    chosen = create_pass_from_dict(kind, settings, disable_search=True)
    made = chosen.run(ONNXModelHandler(str(source)), str(output.with_suffix("")))
    Path(made.model_path).rename(output)


def neural_compressor(name: str, source: Path, output: Path, feeds: Path) -> None:
    """One of Neural Compressor's weight-only methods for ONNX."""
    import onnx
    from onnx_neural_compressor.quantization import matmul_nbits_quantizer as quantizer

    configs: dict[str, Callable[[], Any]] = {
        "inc rtn": quantizer.RTNWeightOnlyQuantConfig,
        "inc gptq": lambda: quantizer.GPTQWeightOnlyQuantConfig(calibration_data_reader=reader(feeds)),
        "inc awq": lambda: quantizer.AWQWeightOnlyQuantConfig(calibration_data_reader=reader(feeds)),
    }
    chosen = quantizer.MatMulNBitsQuantizer(
        str(source),
        n_bits=4,
        block_size=BLOCK,
        is_symmetric=True,
        accuracy_level=4,
        algo_config=configs[name](),
    )
    chosen.process()
    found = chosen.model
    onnx.save(found if isinstance(found, onnx.ModelProto) else found.model, output)


def reader(path: Path) -> Any:
    """The calibration batches, as Neural Compressor reads them."""
    import numpy as np
    from onnx_neural_compressor import data_reader

    class Reader(data_reader.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: list[dict[str, Any]] = []
            with np.load(path) as stored:
                for key in stored:
                    index, name = key.split("/", 1)
                    while len(self.batches) <= int(index):
                        self.batches.append({})
                    self.batches[int(index)][name] = stored[key]
            self.rewind()

        def rewind(self) -> None:
            self.rest = iter(self.batches)

        def get_next(self) -> Any:
            return next(self.rest, None)

    return Reader()


if __name__ == "__main__":
    main()
