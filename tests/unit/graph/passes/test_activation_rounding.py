"""Twins that round activations as other kernels do: they differ by such a rounding, and by no more."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgeq.graph.passes.activation_rounding import (
    Rounding,
    cut_to_bfloat16,
    known_roundings,
    round_activations,
)
from edgeq.graph.passes.sequence import edited

IN, OUT, BLOCK = 64, 24, 32
RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, IN)).astype(np.float32)
CODES = RNG.integers(0, 255, size=(OUT, IN // BLOCK, BLOCK // 2), dtype=np.uint8)
SCALES = RNG.uniform(0.01, 0.02, size=(OUT * IN // BLOCK,)).astype(np.float32)
ZERO_POINTS = RNG.integers(0, 255, size=(OUT * IN // BLOCK // 2,), dtype=np.uint8)
Graph: TypeAlias = Callable[..., ir.Model]


@pytest.fixture(scope="session")
def graph(block_layers: ModuleType) -> Graph:
    """`graph(level=4, bits=4, zero_points=False)`: one layer over `X`."""

    def build(*, level: int = 4, bits: int = 4, zero_points: bool = False) -> ir.Model:
        codes = CODES if bits == 4 else RNG.integers(0, 255, size=(OUT, IN // BLOCK, BLOCK), dtype=np.uint8)
        arrays = [("codes", codes), ("scales", SCALES), ("zeros", ZERO_POINTS)][: 2 + zero_points]
        attributes = {"K": IN, "N": OUT, "bits": bits, "block_size": BLOCK, "accuracy_level": level}
        made: ir.Model = block_layers.block_layer(arrays, attributes)
        return made

    return build


def run(model: ir.Model, x: np.ndarray = X) -> np.ndarray:
    session = ort.InferenceSession(
        ir.serde.serialize_model(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"x": x})[0])


def weights(scales: np.ndarray = SCALES) -> np.ndarray:
    low, high = CODES & 15, CODES >> 4
    codes = np.stack([low, high], axis=-1).reshape(OUT, IN // BLOCK, BLOCK).astype(np.float32) - 8
    return (codes * scales.reshape(OUT, -1, 1)).reshape(OUT, IN)


def expected(rounding: Rounding) -> np.ndarray:
    if rounding is Rounding.NONE:
        return np.asarray(X @ weights().T)
    if rounding is Rounding.BLOCK:
        blocks = X.reshape(len(X), -1, BLOCK)
        step = np.abs(blocks).max(axis=-1, keepdims=True) / 127
        return np.asarray((np.rint(blocks / step) * step).reshape(X.shape) @ weights().T)
    step = (X.max(axis=1, keepdims=True) - X.min(axis=1, keepdims=True)) / 255
    # The upper half of the bits of a float32 is a bfloat16.
    cut = np.frombuffer(np.frombuffer(SCALES.tobytes(), "<u2")[1::2].astype("<u4").tobytes(), "<u4") << 16
    return np.asarray((np.rint(X / step) * step) @ weights(cut.view(np.float32)).T)


@pytest.mark.parametrize("rounding", list(Rounding))
def test_each_rounding_is_what_it_says(rounding: Rounding, graph: Graph) -> None:
    found = run(edited(graph(), round_activations(rounding)))
    np.testing.assert_allclose(found, expected(rounding), atol=1e-5)
    # And none is another.
    others = [expected(other) for other in Rounding if other is not rounding]
    assert all(np.abs(found - other).max() > 1e-4 for other in others)


def test_a_row_of_zeros_stays_one(graph: Graph) -> None:
    for rounding in Rounding:
        assert not run(edited(graph(), round_activations(rounding)), np.zeros_like(X)).any()


def test_only_what_is_left_to_kernels_has_roundings(graph: Graph) -> None:
    assert known_roundings(graph()) == tuple(Rounding)
    assert known_roundings(graph(zero_points=True)) == (Rounding.NONE, Rounding.BLOCK)
    assert known_roundings(graph(bits=8)) == (Rounding.NONE,)
    assert known_roundings(graph(level=1)) == ()
    for model, rounding in (
        (graph(bits=8), Rounding.BLOCK),
        (graph(bits=8), Rounding.ROW),
        (graph(zero_points=True), Rounding.ROW),
    ):
        (kept,) = edited(model, round_activations(rounding)).graph
        assert kept.attributes["accuracy_level"].value == 4, "left to the machine's own kernels"


def test_scales_that_are_stored_in_fewer_bits_are_cut_as_well(graph: Graph) -> None:
    """A float16 table behind a Cast is folded before a kernel sees it."""
    model = graph()
    (layer,) = model.graph
    scales = layer.inputs[2]
    assert scales is not None
    halved = SCALES.astype(np.float16)
    scales.const_value, scales.dtype = ir.tensor(halved, name="scales"), ir.DataType.FLOAT16
    cast = ir.node("Cast", [scales], {"to": int(ir.DataType.FLOAT)}, name="cast")
    cast.outputs[0].name, cast.outputs[0].type = "widened", ir.TensorType(ir.DataType.FLOAT)
    model.graph.insert_before(layer, cast)
    layer.replace_input_with(2, cast.outputs[0])
    assert known_roundings(model) == tuple(Rounding)
    step = (X.max(axis=1, keepdims=True) - X.min(axis=1, keepdims=True)) / 255
    wanted = (np.rint(X / step) * step) @ weights(cut_to_bfloat16(halved.astype(np.float32))).T
    np.testing.assert_allclose(run(edited(model, round_activations(Rounding.ROW))), wanted, atol=1e-5)


def test_scales_are_cut_not_rounded() -> None:
    values = np.array([1 + 2**-7 + 2**-8, -1 - 2**-8, 0.0], np.float32)
    assert cut_to_bfloat16(values).tolist() == [1 + 2**-7, -1.0, 0.0]
