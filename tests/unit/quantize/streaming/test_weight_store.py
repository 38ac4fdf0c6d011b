"""Quantized weights in a file: the same codes, and the same graph, as of weights in memory."""

import gc
from dataclasses import replace

import numpy as np
import pytest

from edgeq.graph.block_weight import BlockWeight
from edgeq.pipeline.weight_jobs import WeightJob
from edgeq.pipeline.weight_only import quantize_by_rows, quantize_layer
from edgeq.quantize.formats import Blocks
from edgeq.quantize.methods import METHODS
from edgeq.quantize.recipes import LayerSpec
from edgeq.quantize.sites import EmbeddingSite, LinearSite
from edgeq.quantize.streaming.row_quantizer import measured_rows
from edgeq.quantize.streaming.stacked_rows import StackedRows
from edgeq.quantize.streaming.stored_tensor import StoredTensor
from edgeq.quantize.streaming.weight_store import WeightStore
from edgeq.quantize.weight_only import LayerStats, awq, quantize
from edgeq.quantize.weight_only.matmul_nbits import to_block_weight

RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.standard_normal((96, 40)).astype(np.float32)
STATS = LayerStats(RANDOM.random(96).astype(np.float32) + 0.1, 1000)
RTN = LayerSpec(method="rtn")
LINEAR = LinearSite("up", "x", "y", "y", "up.weight", None, (96, 40))
TABLE = EmbeddingSite("embed", "y", "embed.weight", (40, 96))


def same(left: BlockWeight, right: BlockWeight) -> bool:
    pairs = [(left.data, right.data), (left.scales, right.scales), (left.zero_points, right.zero_points)]
    return all(
        (a is None) == (b is None) and (a is None or (a.dtype == b.dtype and np.array_equal(a, b)))
        for a, b in pairs
    )


@pytest.mark.parametrize(
    "spec",
    [
        Blocks(),
        Blocks(8, 16),
        Blocks(4, 32, False),
        Blocks(8, -1),
        Blocks(4, 64, True, "float32"),
    ],
    ids=str,
)
def test_codes_come_back(spec):
    store = WeightStore()
    weight = quantize("rtn", WEIGHT, spec)
    codes = store.add(weight)
    assert codes.shape == WEIGHT.shape
    assert np.array_equal(codes().dequantize(), weight.dequantize())
    assert np.array_equal(codes([3, 39, 0]).dequantize(), weight.dequantize()[:, [3, 39, 0]])
    assert np.array_equal(codes(range(4, 9)).dequantize(), weight.dequantize()[:, 4:9])
    assert same(codes.block(), to_block_weight(weight))
    assert not same(codes.block(), to_block_weight(quantize("rtn", WEIGHT + 1, spec)))


@pytest.fixture
def matrix(tmp_path):
    (tmp_path / "weights").write_bytes(np.ascontiguousarray(WEIGHT.T).tobytes())
    return StackedRows([StoredTensor("w", tmp_path / "weights", 0, "float32", (40, 96))])


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("spec", [RTN, replace(RTN, symmetric=False), replace(RTN, bits=8, block_size=-1)])
def test_pieces_as_the_whole_weight(monkeypatch, matrix, threads, spec):
    # Pieces of 3 rows, the last one short.
    monkeypatch.setattr(StackedRows.rows, "__kwdefaults__", {"transposed": False, "max_elements": 3 * 96})
    pieces = [block for block, _ in measured_rows(matrix, spec, threads=threads)]
    whole = to_block_weight(quantize(spec.method, WEIGHT, spec.blocks()))
    assert len(pieces) == 14
    for part in ("data", "scales", *([] if spec.symmetric else ["zero_points"])):
        assert np.array_equal(
            np.concatenate([getattr(piece, part) for piece in pieces]), getattr(whole, part)
        )


def test_importance_changes_the_codes(matrix):
    spec = replace(RTN, method="scale_search")
    stats = LayerStats(np.geomspace(1e-3, 1e3, 96).astype(np.float32), tokens=1000)
    plain, weighted = (
        [block.data for block, _ in measured_rows(matrix, spec, stats=s)] for s in (None, stats)
    )
    assert not np.array_equal(np.concatenate(plain), np.concatenate(weighted))


def test_input_scales_stay_with_the_codes():
    stats = LayerStats(STATS.mean_square, 1000, np.diag(STATS.mean_square).astype(np.float64))
    scaled = awq.quantize_scaled(WEIGHT, Blocks(), stats, np.linspace(0.5, 2, 96, dtype=np.float32))
    assert np.array_equal(WeightStore().add(scaled)().dequantize(), scaled.dequantize())


def test_the_file_goes_with_the_last_code():
    store = WeightStore()
    path, codes = store.path, store.add(quantize("rtn", WEIGHT, Blocks()))
    del store
    gc.collect()
    assert path.is_file()
    del codes
    gc.collect()
    assert not path.exists() and not path.parent.exists()


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.by_rows])
@pytest.mark.parametrize("site", [LINEAR, TABLE], ids=["linear", "table"])
@pytest.mark.parametrize("stats", [None, STATS], ids=["no statistics", "statistics"])
def test_by_rows_as_in_memory(tmp_path, method, site, stats):
    stored = np.ascontiguousarray(WEIGHT.T)
    stored.tofile(tmp_path / "weights")
    rows = StackedRows([StoredTensor("w", tmp_path / "weights", 0, "float32", (40, 96))])
    matrix = rows.transposed() if isinstance(site, LinearSite) else rows
    job = WeightJob(site.name, "w", LayerSpec(method=method), site, ())
    found = quantize_by_rows(job, matrix, stats, WeightStore())
    expected = quantize_layer(job, WEIGHT, stats)
    assert same(found.codes.block(), expected.codes.block())
    assert found.decision.weight_error == pytest.approx(expected.decision.weight_error, rel=1e-5)
    if stats is None:
        assert found.decision.output_error is None is expected.decision.output_error
    else:
        assert found.decision.output_error == pytest.approx(expected.decision.output_error, rel=1e-5)
    assert found.decision.bits_per_weight == expected.decision.bits_per_weight == 4.5
    # Rounding has an error, and of other weights another one.
    assert found.decision.weight_error > 0.01
    assert quantize_layer(job, WEIGHT**3, stats).decision.weight_error != pytest.approx(
        found.decision.weight_error, rel=1e-3
    )
