"""The streaming run: statistics of a tiny graph against numpy, masks, errors, batches and coverage."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeq.errors import DataError, ModelError, OutputError
from edgeq.quantize.batches import FeedBatches
from edgeq.quantize.calibrate import batches_of, observe
from edgeq.quantize.coverage import coverage
from edgeq.quantize.observers.layout import Layout
from edgeq.quantize.statistics import Statistics
from edgeq.samples import Sample, Text, as_samples
from edgeq.types import Array, Feeds

HIDDEN = 8
VOCABULARY = 50
TABLE = np.random.default_rng(1).standard_normal((VOCABULARY, HIDDEN)).astype(np.float32)
WEIGHT = np.random.default_rng(2).standard_normal((HIDDEN, HIDDEN)).astype(np.float32)


def tiny_model(table: Array = TABLE) -> ir.Model:
    """Embedding -> MatMul -> Relu, a reshape to rows, attention-shaped views and a mean over positions."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
        helper.make_node("MatMul", ["embedded", "weight"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Reshape", ["active", "rows"], ["flat"]),
        helper.make_node("Reshape", ["active", "split"], ["split_heads"]),
        helper.make_node("Transpose", ["split_heads"], ["heads"], perm=[0, 2, 1, 3]),
        helper.make_node("ReduceMean", ["active", "axis"], ["pooled"], keepdims=0),
    ]
    weights = {
        "table": table,
        "weight": WEIGHT,
        "rows": np.array([-1, HIDDEN], np.int64),
        "split": np.array([0, 0, 2, HIDDEN // 2], np.int64),
        "axis": np.array([1], np.int64),
    }
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["batch", HIDDEN])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


class Words:
    """A preprocessor: a word is the token numbered by its length."""

    max_length = 12

    def __call__(self, samples: Sequence[Sample], *, pad_to: int | None = None) -> dict[str, Array]:
        rows = [
            [len(word) % VOCABULARY for word in sample.texts[0].split()][: self.max_length]
            for sample in samples
        ]
        width = pad_to or max(map(len, rows))
        ids = np.zeros((len(rows), width), np.int64)
        mask = np.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def costs(self, samples: Sequence[Sample]) -> list[int]:
        return [len(sample.texts[0].split()) for sample in samples]


def texts(count: int = 60) -> list[Text]:
    rng = np.random.default_rng(5)
    return [
        Text(" ".join("x" * rng.integers(1, VOCABULARY) for _ in range(rng.integers(1, 16))))
        for _ in range(count)
    ]


def hidden_of(samples: Sequence[Text]) -> Array:
    """The MatMul's output of all real tokens, `[tokens, hidden]`."""
    ids = np.concatenate(
        [[len(word) for word in sample.text.split()][: Words.max_length] for sample in samples]
    )
    return TABLE[ids] @ WEIGHT


def same_bins(left: Statistics, right: Statistics) -> bool:
    return all(
        np.array_equal(left[name].histogram.counts, right[name].histogram.counts)
        and left[name].histogram.exponent == right[name].histogram.exponent
        and (left[name].min, left[name].max) == (right[name].min, right[name].max)
        for name in left
    )


def test_statistics_are_those_of_numpy() -> None:
    samples = texts()
    seen = observe(tiny_model(), ["hidden"], batches_of(samples, Words(), 7), gram=True)["hidden"]
    exact = hidden_of(samples)
    assert seen.rows == len(exact)
    assert seen.count == exact.size
    # onnxruntime and numpy sum 8 float32 products in their own order.
    near = {"rel": 8 * 2.0**-23, "abs": 1e-5}
    assert seen.min == pytest.approx(exact.min(), **near)
    assert seen.max == pytest.approx(exact.max(), **near)
    assert seen.channel_absmax == pytest.approx(np.abs(exact).max(axis=0), **near)
    assert seen.channel_min == pytest.approx(exact.min(axis=0), **near)
    assert seen.channel_max == pytest.approx(exact.max(axis=0), **near)
    assert seen.channel_mean_square == pytest.approx((exact.astype(float) ** 2).mean(axis=0), rel=1e-5)
    assert seen.channel_mean == pytest.approx(exact.astype(float).mean(axis=0), abs=1e-5)
    assert seen.gram == pytest.approx(exact.T.astype(float) @ exact, rel=1e-4, abs=1e-2)


@pytest.mark.parametrize("batch_size", [1, 3, 60])
def test_batching_does_not_matter(batch_size: int) -> None:
    samples = texts()
    names = ["embedded", "active"]
    # Embeddings are copied, not computed: they are the same bits however the batch is cut.
    whole = observe(tiny_model(), names[:1], batches_of(samples, Words(), 60))
    cut = observe(tiny_model(), names[:1], batches_of(samples[::-1], Words(), batch_size))
    assert same_bins(cut, whole)
    assert not same_bins(observe(tiny_model(), names[:1], batches_of(samples[1:], Words())), whole)


def test_padding_enters_no_statistic() -> None:
    table = TABLE.copy()
    table[0] = 1e6  # the padding token
    samples = texts()
    poisoned = observe(tiny_model(table), ["embedded", "flat"], batches_of(samples, Words(), 60))
    clean = observe(tiny_model(), ["embedded", "flat"], batches_of(samples, Words(), 1))
    assert same_bins(poisoned, clean)
    unmasked = observe(tiny_model(table), ["embedded"], batches_of(samples, Words(), 60), padding=None)
    assert unmasked["embedded"].max == 1e6


def test_flat_pooled_and_heads_are_understood() -> None:
    samples = texts(20)
    seen = observe(
        tiny_model(),
        ["active", "flat", "pooled", "heads"],
        batches_of(samples, Words(), 8),
        layouts={"heads": Layout.HEADS},
    )
    for name in ("flat", "heads"):
        assert np.array_equal(seen[name].histogram.counts, seen["active"].histogram.counts)
        assert np.array_equal(seen[name].channel_max, seen["active"].channel_max)
    assert seen["pooled"].rows == 20


def test_the_model_and_a_file_give_the_same(tmp_path: Path) -> None:
    model = tiny_model()
    ir.save(model, tmp_path / "model.onnx", external_data="weights.bin")
    before = onnx.load(tmp_path / "model.onnx").SerializeToString()
    outputs = [value.name for value in model.graph.outputs]
    samples = texts(10)
    from_memory = observe(model, ["hidden"], batches_of(samples, Words()))
    from_file = observe(tmp_path / "model.onnx", ["hidden"], batches_of(samples, Words()))
    assert from_memory.to_bytes() == from_file.to_bytes()
    assert [value.name for value in model.graph.outputs] == outputs
    assert onnx.load(tmp_path / "model.onnx").SerializeToString() == before


def test_progress_counts_samples() -> None:
    done: list[int] = []
    seen = observe(tiny_model(), ["hidden"], batches_of(texts(10), Words(), 4), on_progress=done.append)
    assert done == [4, 8, 10]
    assert (seen.samples, seen.batches) == (10, 3)
    assert seen.positions == seen["hidden"].rows


def test_gram_only_for_the_tensors_named() -> None:
    seen = observe(tiny_model(), ["hidden", "active"], batches_of(texts(4), Words()), gram=["active"])
    assert seen["hidden"].gram is None
    assert seen["active"].gram is not None
    with pytest.raises(ModelError, match="pooled"):
        observe(tiny_model(), ["hidden"], batches_of(texts(4), Words()), gram=["pooled"])


def test_an_unknown_tensor_is_named_with_those_like_it() -> None:
    with pytest.raises(ModelError, match=r"no tensor `hiden`.*`hidden`"):
        observe(tiny_model(), ["hiden"], batches_of(texts(2), Words()))


def test_weights_are_not_observed() -> None:
    with pytest.raises(ModelError, match="no tensor `weight`"):
        observe(tiny_model(), ["weight"], batches_of(texts(2), Words()))


def test_integer_tensors_are_refused() -> None:
    with pytest.raises(ModelError, match=r"`input_ids`.*layout|`input_ids`.*int64"):
        observe(tiny_model(), ["input_ids"], batches_of(texts(2), Words()))


def test_four_axes_need_a_layout() -> None:
    with pytest.raises(ModelError, match=r"`heads`: shape \[.*layout"):
        observe(tiny_model(), ["heads"], batches_of(texts(2), Words()))


@pytest.mark.parametrize("tensor", ["embedded", "flat"])
def test_a_value_that_is_not_finite_names_tensor_and_sample(tensor: str) -> None:
    table = TABLE.copy()
    table[40] = np.inf
    samples = [*texts(5), Text("x " * 11 + "y" * 40)]
    samples = [sample for sample in samples[:-1] if "x" * 40 not in sample.text.split()] + samples[-1:]
    with pytest.raises(DataError, match=rf"`{tensor}` is NaN or infinite for sample \d+ \('x x x"):
        observe(tiny_model(table), [tensor], batches_of(samples, Words(), 4))


def test_padding_may_be_infinite() -> None:
    table = TABLE.copy()
    table[0] = np.inf
    observe(tiny_model(table), ["embedded"], batches_of(texts(10), Words()))


def test_no_batches_is_an_error() -> None:
    with pytest.raises(DataError, match="no batch"):
        observe(tiny_model(), ["hidden"], [])


def test_a_missing_input_is_named() -> None:
    with pytest.raises(ModelError, match="lack input `input_ids`; got other"):
        observe(tiny_model(), ["hidden"], [({"other": np.zeros((1, 1))}, 1)])


def test_a_failing_graph_is_a_model_error() -> None:
    feeds = {"input_ids": np.full((1, 2), VOCABULARY + 5)}
    with pytest.raises(ModelError, match="fails on calibration data"):
        observe(tiny_model(), ["hidden"], [(feeds, 1)])


def test_a_full_temporary_folder_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ir, "save", full)
    with pytest.raises(OutputError, match="No space left on device") as caught:
        observe(tiny_model(), ["hidden"], batches_of(texts(2), Words()))
    assert caught.value.hint == "free some space there, or choose another --output"


def test_batches_stream() -> None:
    pending = 0

    def one_at_a_time() -> Iterator[tuple[Feeds, int]]:
        nonlocal pending
        for batch in batches_of(texts(9), Words(), 3):
            pending += 1
            yield batch
            pending -= 1

    observe(tiny_model(), ["hidden"], one_at_a_time(), on_progress=lambda _: _assert_single(pending))


def _assert_single(pending: int) -> None:
    assert pending == 1


def test_batches_hold_similar_lengths_within_the_token_limit() -> None:
    samples = texts(100)
    batches = batches_of(samples, Words(), 16, max_tokens=60)
    total, widths = 0, []
    for feeds, count in batches:
        ids = feeds["input_ids"]
        assert count == len(ids) <= 16
        assert ids.size <= 60
        widths.append(ids.shape[1])
        total += count
    assert total == 100
    assert len(widths) == len(batches)
    assert widths == sorted(widths)
    mask_share = sum(f["attention_mask"].sum() for f, _ in batches) / sum(
        f["input_ids"].size for f, _ in batches
    )
    assert mask_share > 0.9


def test_a_sample_above_the_limit_gets_its_own_batch() -> None:
    long = as_samples(["a b c d", "e f g h"])
    assert [count for _, count in batches_of(long, Words(), max_tokens=3)] == [1, 1]


def test_samples_are_found_by_their_position() -> None:
    batches = batches_of(as_samples(["one two three", "one", "one two"]), Words())
    assert [batches.sample(index) for index in range(3)] == as_samples(["one", "one two", "one two three"])


def test_feed_batches_cut_arrays() -> None:
    feeds = {"input_ids": np.arange(10).reshape(5, 2)}
    batches = FeedBatches(feeds, 2)
    assert [count for _, count in batches] == [2, 2, 1]
    assert len(batches) == 3
    assert [batch["input_ids"].tolist() for batch, _ in batches.after(2)] == [[[8, 9]]]


def test_statistics_survive_a_file_bit_by_bit(tmp_path: Path) -> None:
    seen = observe(tiny_model(), ["hidden", "active"], batches_of(texts(20), Words()), gram=["hidden"])
    seen.save(tmp_path / "s.npz", key="k")
    again = Statistics.load(tmp_path / "s.npz", key="k")
    assert again.to_bytes(key="k") == seen.to_bytes(key="k") == (tmp_path / "s.npz").read_bytes()
    assert list(again) == ["hidden", "active"]
    with pytest.raises(DataError, match="made for key k"):
        Statistics.load(tmp_path / "s.npz", key="other")


def test_a_flipped_bit_anywhere_is_noticed_or_harmless(tmp_path: Path) -> None:
    seen = observe(tiny_model(), ["hidden"], batches_of(texts(5), Words()))
    good = seen.to_bytes()
    path = tmp_path / "s.npz"
    noticed = 0
    for position in range(40, len(good), 1009):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x10]) + good[position + 1 :])
        try:
            assert Statistics.load(path).to_bytes() == good
        except DataError:
            noticed += 1
    assert noticed > 100


def test_merged_runs_equal_one_run() -> None:
    samples = texts(30)
    whole = observe(tiny_model(), ["embedded"], batches_of(samples, Words()))
    halves = [
        observe(tiny_model(), ["embedded"], batches_of(part, Words())) for part in (samples[:9], samples[9:])
    ]
    merged = halves[0].merge(halves[1])
    assert same_bins(merged, whole)
    assert (merged.samples, merged.positions) == (whole.samples, whole.positions)


def test_coverage_reports_lengths_truncation_and_clipping() -> None:
    samples = as_samples(["a"] * 10 + ["a b c"] * 9 + ["a " * 20])
    seen = observe(tiny_model(), ["hidden"], batches_of(samples, Words()))
    full = (seen["hidden"].min, seen["hidden"].max)
    report = coverage(samples, Words(), seen, {"hidden": full})
    assert (report.samples, report.tokens_min, report.tokens_median) == (20, 1, 1)
    assert (report.tokens_p95, report.tokens_max, report.max_length) == (3, 20, 12)
    assert report.truncated_share == 1 / 20
    assert report.clipping == {"hidden": 0.0}
    cut = coverage(samples, Words(), seen, {"hidden": (0.0, full[1])})
    assert cut.clipping["hidden"] > 0.1


def test_coverage_without_ranges_has_no_clipping() -> None:
    report = coverage([Text("a")], Words())
    assert report.clipping == {}
    with pytest.raises(ValueError, match="at least one sample"):
        coverage([], Words())
    with pytest.raises(ValueError, match="statistics"):
        coverage([Text("a")], Words(), None, {"hidden": (0.0, 1.0)})
