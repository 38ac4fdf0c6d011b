"""What accuracy level 4 means in onnxruntime: inputs rounded to int8, each block of a row with a scale of its own."""

from __future__ import annotations

import platform

import numpy as np
import pytest

from edgeq.graph.passes.weight_only import ACCURACY_LEVEL
from edgeq.types import FloatArray

IN_FEATURES, OUT_FEATURES, ROWS = 384, 24, 5
# Float32 sums of 384 products, in another order; rounding inputs to int8 costs 4e-3 and more.
SAME = 2e-5

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="kernels differ by architecture"
)


def int8_blocks(x: FloatArray, block: int) -> FloatArray:
    """Symmetric int8 and back, each block of each row by its largest magnitude."""
    blocks = x.reshape(len(x), -1, block)
    scale = np.abs(blocks).max(axis=-1, keepdims=True) / 127
    return (np.rint(blocks / scale) * scale).reshape(x.shape)


def product(x: FloatArray, bits: int, block: int, level: int) -> tuple[FloatArray, FloatArray]:
    """What onnxruntime computes, and the weight it computes with, `[in, out]`."""
    import onnx
    import onnx_ir as ir
    import onnxruntime as ort

    from edgeq.quantize import weight_only
    from edgeq.quantize.formats import Blocks
    from edgeq.quantize.weight_only.matmul_nbits import lower

    weight = np.random.default_rng(1).normal(0, 0.05, (IN_FEATURES, OUT_FEATURES)).astype(np.float32)
    proto = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 20]>
        g (float[rows, {IN_FEATURES}] x) => (float[rows, {OUT_FEATURES}] y) {{ ["fc"] y = MatMul (x, w) }}"""
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    quantized = weight_only.quantize("rtn", weight, Blocks(bits, block, symmetric=True))
    lowered = lower(ir.serde.deserialize_model(proto), {"w": quantized}).model
    for node in (node for node in lowered.graph if node.op_type == "MatMulNBits"):
        node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", level)
    session = ort.InferenceSession(
        ir.to_proto(lowered).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0], quantized.dequantize()


def distance(a: FloatArray, b: FloatArray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("block", [16, 32, 128])
@pytest.mark.parametrize("bits", [4, 8])
def test_inputs_are_int8_in_the_blocks_of_the_weight(bits: int, block: int) -> None:
    x = np.random.default_rng(2).normal(size=(ROWS, IN_FEATURES)).astype(np.float32)
    found, weight = product(x, bits, block, ACCURACY_LEVEL)
    assert distance(found, int8_blocks(x, block) @ weight) < SAME
    # Neither float inputs nor other blocks give these numbers.
    assert distance(found, x @ weight) > 100 * SAME
    assert distance(found, int8_blocks(x, block * 3) @ weight) > 100 * SAME


def test_below_that_level_inputs_stay_in_float() -> None:
    x = np.random.default_rng(2).normal(size=(ROWS, IN_FEATURES)).astype(np.float32)
    found, weight = product(x, 4, 128, 1)
    assert distance(found, x @ weight) < SAME
