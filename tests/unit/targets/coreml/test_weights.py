"""Compressed weights: what the package says a weight is, against what was decided, and against coremltools."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.errors import ConfigError, UnsupportedError
from edgeq.quantize.weight_only.palette import cluster, nearest, palettize
from edgeq.targets.coreml.decisions import ActivationQuant, Codes, Int4Weight, Int8Weight, PaletteWeight
from edgeq.targets.coreml.interpreter.blob import unpack_lsb_first
from edgeq.targets.coreml.weights import int4_codes, int8_codes, pack_lsb_first

RNG = np.random.default_rng(1)
W = RNG.standard_normal((64, 32)).astype(np.float32)
X = RNG.standard_normal((1, 4, 64)).astype(np.float32)


@pytest.fixture
def linear(graph: Any) -> ir.Model:
    """`out = x @ w + b`."""
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["p"], name="dense"),
        onnx.helper.make_node("Add", ["p", "b"], ["out"], name="bias"),
    ]
    return graph(nodes, {"x": ("float32", X.shape)}, ["out"], {"w": W, "b": np.arange(32, dtype=np.float32)})


def stored_weight(interpreter: Any) -> np.ndarray:
    return next(value for name, value in interpreter._constants.items() if name == "w")


@pytest.mark.parametrize("ios", [16, 17, 18])
def test_int8_is_within_half_a_step(linear: ir.Model, lower: Any, ios: int) -> None:
    interpreter, lowered = lower(linear, ios=ios, weights={"w": Int8Weight()})
    step = np.abs(W).max(axis=0) / 127
    error = np.abs(stored_weight(interpreter).T - W)
    assert (error <= step / 2 * 1.0001).all()
    assert error.max() > 0
    assert lowered.compressed == ("w",)
    assert interpreter.operator_counts()["linear"] == 1
    assert "add" not in interpreter.operator_counts()


def test_int4_equals_its_codes(linear: ir.Model, lower: Any) -> None:
    interpreter, _ = lower(linear, ios=18, weights={"w": Int4Weight(16)})
    codes = int4_codes(np.ascontiguousarray(W.T), 16)
    assert codes.values.min() == -8
    assert codes.values.max() <= 7
    dense = codes.values.reshape(32, 4, 16) * codes.scale[..., None]
    np.testing.assert_array_equal(stored_weight(interpreter), dense.reshape(32, 64).astype(np.float32))


@pytest.mark.parametrize("zero", [None, 3])
def test_given_codes_are_stored_as_they_are(linear: ir.Model, lower: Any, zero: int | None) -> None:
    values = RNG.integers(-8, 8, (32, 64)).astype(np.int8)
    scale = np.full((32, 2), 0.5, np.float32)
    offset = None if zero is None else np.full((32, 2), zero, np.int8)
    interpreter, _ = lower(linear, ios=18, weights={"w": Int4Weight(32, codes=Codes(values, scale, offset))})
    expected = (values.astype(np.float32) - (zero or 0)) * np.float32(0.5)
    np.testing.assert_array_equal(stored_weight(interpreter), expected)


@pytest.mark.parametrize(
    ("bits", "group", "ios"), [(4, None, 16), (6, None, 17), (8, None, 18), (4, 8, 18), (6, 16, 18)]
)
def test_palette_equals_its_table(
    linear: ir.Model, lower: Any, bits: int, group: int | None, ios: int
) -> None:
    interpreter, _ = lower(linear, ios=ios, weights={"w": PaletteWeight(bits, group)})
    palette = palettize(np.ascontiguousarray(W.T), bits, group_rows=group)
    assert palette.luts.shape == (1 if group is None else 32 // group, 2**bits)
    np.testing.assert_array_equal(stored_weight(interpreter), palette.dense())


def test_coremltools_reads_the_same_weights(linear: ir.Model, lower: Any, tmp_path: Any) -> None:
    from edgeq.targets.coreml.backend import coremltools, quiet

    interpreter, lowered = lower(linear, ios=18, weights={"w": Int4Weight(16)})
    ct = coremltools()
    with quiet():
        model = ct.models.MLModel(str(lowered.path), skip_model_load=True)
        program = ct.converters.mil.frontend.milproto.load.load(
            model.get_spec(), model.get_spec().specificationVersion, model.weights_dir
        )
    operation = program.functions["main"].find_ops(op_type="constexpr_blockwise_shift_scale")[0]
    np.testing.assert_array_equal(operation.materialized_val_inference(), stored_weight(interpreter))


def test_equalization_cancels_in_float(linear: ir.Model, lower: Any) -> None:
    plain, _ = lower(linear, weights={"w": Int8Weight()})
    scale = np.exp(RNG.standard_normal(64)).astype(np.float32)
    equalized, _ = lower(linear, weights={"w": Int8Weight(scale)})
    exact = X @ W + np.arange(32)
    for interpreter in (plain, equalized):
        # Per-channel int8 of 64 terms of size one: error below 64 * step / 2.
        assert (
            np.abs(interpreter.run({"x": X})["out"] - exact).max()
            < 64 * np.abs(W * scale[:, None]).max() / 127
        )
    assert "mul" in equalized.operator_counts()
    assert not np.array_equal(stored_weight(plain), stored_weight(equalized))


def test_static_activations_follow_the_formula(linear: ir.Model, lower: Any) -> None:
    quant = ActivationQuant.from_range(-2.0, 2.0)
    interpreter, lowered = lower(linear, weights={"w": Int8Weight()}, activations={"dense": quant})
    codes = np.clip(np.rint(X / np.float32(quant.scale)) + quant.zero_point, -128, 127)
    restored = (codes - quant.zero_point).astype(np.float32) * np.float32(quant.scale)
    expected = restored @ stored_weight(interpreter).T + np.arange(32, dtype=np.float32)
    np.testing.assert_allclose(interpreter.run({"x": X})["out"], expected, rtol=1e-5, atol=1e-4)
    assert lowered.compressed == ("dense", "w")
    assert np.abs(X).max() > 2.0  # the range clips, so the comparison above sees saturation


def test_layers_that_share_an_input_share_its_quantization(graph: Any, lower: Any) -> None:
    nodes = [onnx.helper.make_node("MatMul", ["x", f"w{i}"], [f"out{i}"], name=f"d{i}") for i in range(3)]
    weights = {f"w{i}": W + np.float32(i) for i in range(3)}
    model = graph(nodes, {"x": ("float32", X.shape)}, [f"out{i}" for i in range(3)], weights)
    quant = ActivationQuant(0.02, 5)
    interpreter, _ = lower(model, activations={f"d{i}": quant for i in range(3)})
    assert interpreter.operator_counts()["quantize"] == 1


def test_a_tied_table_is_stored_once(graph: Any, lower: Any) -> None:
    table = RNG.standard_normal((50, 64)).astype(np.float32)
    node = onnx.helper.make_node
    nodes = [
        node("Gather", ["table", "ids"], ["h"], name="embed"),
        node("Transpose", ["table"], ["turned"], perm=[1, 0]),
        node("MatMul", ["h", "turned"], ["logits"], name="decode"),
    ]
    model = graph(nodes, {"ids": ("int64", (1, 3))}, ["logits"], {"table": table})
    interpreter, _ = lower(model, weights={"table": Int8Weight()})
    assert interpreter.operator_counts()["constexpr_affine_dequantize"] == 1
    ids = np.array([[3, 49, 0]])
    expected = table[ids] @ table.T
    # 64 products, each factor off by half a step of 1/127 of its row: well inside 2 % of the largest logit.
    assert np.abs(interpreter.run({"ids": ids})["logits"] - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("ios", "options", "needs"),
    [
        (17, {"weights": {"w": Int4Weight()}}, "int4.*needs iOS 18"),
        (17, {"weights": {"w": PaletteWeight(4, 8)}}, "lookup table per group.*needs iOS 18"),
        (16, {"activations": {"dense": ActivationQuant(0.1, 0)}}, "static activation.*needs iOS 17"),
    ],
)
def test_an_old_ios_is_refused_with_the_reason(
    linear: ir.Model, lower: Any, ios: int, options: dict[str, Any], needs: str
) -> None:
    with pytest.raises(UnsupportedError, match=needs) as caught:
        lower(linear, ios=ios, **options)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("--ios 1")


def test_misfits_are_refused(linear: ir.Model, lower: Any) -> None:
    with pytest.raises(UnsupportedError, match="not a multiple of block 48"):
        lower(linear, ios=18, weights={"w": Int4Weight(48)})
    with pytest.raises(UnsupportedError, match="4-bit range"):
        codes = Codes(np.full((32, 64), 9, np.int8), np.ones((32, 2), np.float32))
        lower(linear, ios=18, weights={"w": Int4Weight(32, codes=codes)})
    with pytest.raises(ConfigError, match="names nothing") as caught:
        lower(linear, activations={"dens": ActivationQuant(0.1, 0)})
    assert caught.value.hint == "did you mean `dense`?"
    with pytest.raises(ConfigError, match="iOS 15"):
        lower(linear, ios=15)


@given(st.integers(1, 8), st.lists(st.integers(0, 255), min_size=1, max_size=40))
def test_packing_round_trips(bits: int, values: list[int]) -> None:
    codes = np.array(values, np.uint8) & np.uint8(2**bits - 1)
    packed = pack_lsb_first(codes, bits)
    assert len(packed) == -(-len(codes) * bits // 8)
    np.testing.assert_array_equal(unpack_lsb_first(packed, bits)[: len(codes)], codes)


def test_packing_golden() -> None:
    assert pack_lsb_first(np.array([1, 2, 3, 0, 2], np.uint8), 2).tolist() == [0b00_11_10_01, 0b10]


def test_int8_scales_are_what_fp16_stores() -> None:
    codes = int8_codes(np.ascontiguousarray(W.T), "fp16")
    np.testing.assert_array_equal(codes.scale, codes.scale.astype(np.float16).astype(np.float32))
    assert np.abs(codes.values).max() == 127


def test_clustering_recovers_separate_values() -> None:
    centers = np.array([-3, -1, 0.5, 2], np.float32)
    values = np.repeat(centers, 50) + RNG.uniform(-0.01, 0.01, 200).astype(np.float32)
    found = cluster(values, np.ones(200, np.float32), 4)
    np.testing.assert_allclose(found, centers, atol=0.01)
    np.testing.assert_array_equal(nearest(centers, found), [0, 1, 2, 3])


def test_clustering_beats_even_spacing_and_heeds_importance() -> None:
    rows = RNG.standard_t(4, (64, 128)).astype(np.float32)
    even = np.linspace(rows.min(), rows.max(), 16, dtype=np.float32)
    palette = palettize(rows, 4)
    assert ((palette.dense() - rows) ** 2).sum() < 0.5 * ((even[nearest(rows, even)] - rows) ** 2).sum()
    importance = np.where(np.arange(128) < 4, 100.0, 1.0).astype(np.float32)
    weighted = palettize(rows, 4, importance=importance)
    column_error = [((p.dense() - rows)[:, :4] ** 2).sum() for p in (palette, weighted)]
    assert column_error[1] < column_error[0]


@pytest.mark.parametrize(("bits", "group"), [(5, None), (4, 7)])
def test_palette_settings_are_checked(bits: int, group: int | None) -> None:
    with pytest.raises(ConfigError):
        palettize(np.ascontiguousarray(W.T), bits, group_rows=group)
