"""GGUF blocks: bytes that the `gguf` package reads as meant, and errors that only fall."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.errors import ModelError
from edgeq.quantize.ggml import BLOCK_TYPES, BlockType, Evidence, fit_rows, quantize_rows
from edgeq.quantize.ggml.quantize import per_weight
from edgeq.quantize.weight_only.candidate import channel_errors
from edgeq.quantize.weight_only.gptq import factorize
from edgeq.types import Array, FloatArray

gguf = pytest.importorskip("gguf")

NAMES = tuple(BLOCK_TYPES)
K = 512


def rows_of(count: int = 24, seed: int = 0) -> FloatArray:
    """Heavy-tailed rows, some of them odd: zeros, a constant, one large value, all of one sign."""
    random = np.random.default_rng(seed)
    rows = (0.05 * random.standard_t(4, (count, K))).astype(np.float32)
    rows[1] = 0
    rows[2, :256] = 0
    rows[3] = 0.25
    rows[4, 7] = 12.0
    rows[5] = np.abs(rows[5]) + 1
    rows[6] = -np.abs(rows[6])
    return rows


def importance_of(seed: int = 1) -> FloatArray:
    return np.random.default_rng(seed).lognormal(0, 1.5, K).astype(np.float32)


def read(data: Array, kind: BlockType) -> FloatArray:
    """By the `gguf` package."""
    values = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind.name])
    return np.asarray(values, np.float32).reshape(len(data), -1)


@pytest.mark.parametrize("name", NAMES)
def test_gguf_reads_the_very_values_that_were_meant(name: str) -> None:
    kind, rows = BLOCK_TYPES[name], rows_of()
    found, codes = fit_rows(rows, kind)
    steps, offsets = per_weight(found, kind)
    meant = codes * steps + offsets
    back = read(quantize_rows(rows, kind), kind)
    np.testing.assert_array_equal(back, meant)
    codes[0, 0] += 1
    assert not np.array_equal(back, codes * steps + offsets)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_those_of_the_gguf_package(name: str) -> None:
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    assert (BLOCK_TYPES[name].block, BLOCK_TYPES[name].block_bytes) == (block, size)
    assert quantize_rows(rows_of(), BLOCK_TYPES[name]).shape == (24, K // block * size)


def test_golden_bytes_of_a_q4_0_block() -> None:
    # -8 ... 7 twice, in steps of 0.5: every code once in each half, a float16 0.5 in front.
    row = np.concatenate([np.arange(-8, 8), np.arange(-8, 8)]).astype(np.float32)[None] * np.float32(0.5)
    expected = bytes.fromhex("0038") + bytes(value | value << 4 for value in range(16))
    assert quantize_rows(row, BLOCK_TYPES["Q4_0"]).tobytes() == expected


def plain(rows: FloatArray, kind: BlockType) -> FloatArray:
    """What comes of covering each block's range, as ggml's reference quantizers do, with whole shared scales."""
    x = rows.reshape(len(rows), -1, kind.members)
    if kind.has_minimum:
        low = np.minimum(x.min(-1), 0) if kind.is_super else x.min(-1)
        step, offset = (x.max(-1) - low) / kind.high, low
    else:
        peak = np.take_along_axis(x, np.abs(x).argmax(-1)[..., None], -1)[..., 0]
        step = peak / (kind.low if kind.name != "Q8_0" else 127)
        offset = np.zeros_like(step)
    if kind.is_super:
        step = shared(step, kind, kind.scale_low or 0)
        offset = -shared(-offset, kind, 0)
    else:
        step, offset = half(step), half(offset)
    safe = np.where(step == 0, np.inf, step)[..., None]
    codes = np.clip(np.rint((x - offset[..., None]) / safe), kind.low, kind.high)
    return np.asarray(codes * step[..., None] + offset[..., None], np.float32).reshape(rows.shape)


def shared(values: Array, kind: BlockType, low: int) -> FloatArray:
    """Whole multiples of one float16 per super-block."""
    split = values.reshape(len(values), -1, kind.sub_blocks)
    peak = np.take_along_axis(split, np.abs(split).argmax(-1)[..., None], -1)
    scale = half(peak / (low if low else kind.scale_high))
    safe = np.where(scale == 0, np.inf, scale)
    return np.asarray(np.clip(np.rint(split / safe), low, kind.scale_high) * scale, np.float32).reshape(
        values.shape
    )


def half(values: Array) -> FloatArray:
    return np.asarray(values, np.float16).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_weighted_error_is_below_that_of_covering_the_range(name: str) -> None:
    kind, rows, importance = BLOCK_TYPES[name], rows_of(), importance_of()
    ours = read(quantize_rows(rows, kind, Evidence(importance)), kind)
    theirs = plain(rows, kind)
    if name in ("Q4_1", "Q5_1", "Q4_0", "Q5_0", "Q8_0"):
        # The reference of this test is the one of the gguf package, where it has one.
        data = gguf.quants.quantize(rows, gguf.GGMLQuantizationType[name])
        assert weighted(read(data, kind), rows, importance) == pytest.approx(
            weighted(theirs, rows, importance), rel=0.05
        )
    assert weighted(ours, rows, importance) < 0.97 * weighted(theirs, rows, importance)


def weighted(values: FloatArray, rows: FloatArray, importance: FloatArray) -> float:
    return float((importance * np.square(values - rows)).sum(dtype=np.float64))


@pytest.mark.parametrize("name", NAMES)
def test_importance_moves_the_error_to_where_it_matters_least(name: str) -> None:
    kind, rows, importance = BLOCK_TYPES[name], rows_of(), importance_of()
    aware = read(quantize_rows(rows, kind, Evidence(importance)), kind)
    blind = read(quantize_rows(rows, kind), kind)
    assert weighted(aware, rows, importance) < weighted(blind, rows, importance)
    if not kind.is_coarse:
        # Coarse types also weigh by magnitude: there the plain error is nobody's objective.
        assert weighted(blind, rows, np.ones(K, np.float32)) < weighted(aware, rows, np.ones(K, np.float32))


@pytest.mark.parametrize("name", ["Q4_0", "Q4_K", "Q6_K"])
def test_feedback_lowers_the_output_error_of_every_row(name: str) -> None:
    kind, rows = BLOCK_TYPES[name], rows_of()
    random = np.random.default_rng(2)
    inputs = (random.normal(size=(2048, 40)) @ random.normal(size=(40, K))).astype(np.float32)
    inputs += random.normal(size=inputs.shape).astype(np.float32)
    gram = inputs.T.astype(np.float64) @ inputs
    importance = np.asarray(np.diag(gram) / np.diag(gram).mean(), np.float32)
    hessian = factorize(gram)
    assert hessian is not None
    nearest = read(quantize_rows(rows, kind, Evidence(importance)), kind)
    chosen = read(quantize_rows(rows, kind, Evidence(importance, hessian)), kind)
    before = channel_errors(rows.T, nearest.T, hessian.gram)
    after = channel_errors(rows.T, chosen.T, hessian.gram)
    # float32 sums of the same codes in another order.
    assert (after <= before * (1 + 1e-4) + 1e-9).all()
    assert after.sum() < 0.6 * before.sum()
    assert not (
        channel_errors(rows.T, read(quantize_rows(rows[::-1].copy(), kind), kind).T, hessian.gram) <= before
    ).all()


@pytest.mark.parametrize("name", NAMES)
def test_zeros_stay_zeros(name: str) -> None:
    kind = BLOCK_TYPES[name]
    assert not read(quantize_rows(np.zeros((2, K), np.float32), kind), kind).any()
    assert read(quantize_rows(np.full((2, K), 0.5, np.float32), kind), kind).all()


@pytest.mark.parametrize("name", ["Q4_0", "Q5_K", "Q6_K"])
def test_values_that_cannot_be_stored_are_refused(name: str) -> None:
    rows = rows_of()
    rows[0, 0] = np.nan
    with pytest.raises(ModelError, match="NaN or infinite"):
        quantize_rows(rows, BLOCK_TYPES[name])
    rows[0, 0] = 1e6
    with pytest.raises(ModelError, match="float16"):
        quantize_rows(rows, BLOCK_TYPES[name])
    with pytest.raises(ValueError, match="blocks of"):
        quantize_rows(rows[:, :100], BLOCK_TYPES[name])


def test_rows_do_not_depend_on_the_rows_beside_them() -> None:
    rows = rows_of(8)
    for name in NAMES:
        whole = quantize_rows(rows, BLOCK_TYPES[name])
        np.testing.assert_array_equal(whole[2:4], quantize_rows(rows[2:4], BLOCK_TYPES[name]))
