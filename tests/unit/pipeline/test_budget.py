"""Budgets: what is read, what is refused, and when a sample decides."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.errors import DataError, UsageError
from edgeq.pipeline.tune.budget import Budget, parse_budget
from edgeq.pipeline.tune.metrics import spearman_drop
from edgeq.quantize.bootstrap import Estimate
from edgeq.tasks.labelled import read_pairs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cosine>=0.995", Budget("cosine_mean", ">=", 0.995)),
        ("cosine_p01 >= 0.95", Budget("cosine_p01", ">=", 0.95)),
        ("kl<=0.01", Budget("kl_mean", "<=", 0.01)),
        ("spearman_drop<=0.2", Budget("spearman_drop", "<=", 0.2)),
        ("size<=12MB", Budget("size", "<=", 12e6)),
        ("size <= 1.5 MiB", Budget("size", "<=", 1.5 * 2**20)),
        ("size<=900kB", Budget("size", "<=", 9e5)),
        ("cosine=0.995", Budget("cosine_mean", ">=", 0.995)),
        ("spearman_drop=0.2", Budget("spearman_drop", "<=", 0.2)),
        ("perplexity_ratio=1.02", Budget("perplexity_ratio", "<=", 1.02)),
        ("perplexity_ratio<=1.02", Budget("perplexity_ratio", "<=", 1.02)),
        ("size=12MB", Budget("size", "<=", 12e6)),
    ],
)
def test_budgets(text, expected):
    assert parse_budget(text) == expected
    assert parse_budget(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "cosine<=0.9",
        "cosine>=1.5",
        "cosine=1.5",
        "size<=12",
        "size>=12MB",
        "size<=12XB",
        "size<=0MB",
        "spearman_drop>=0.2",
        "perplexity_ratio>=1.02",
        "perplexity=20",
        "spearman>=80",
        "speed>=2",
        "max_abs<=0.1",
        "",
    ],
)
def test_bad_budgets_are_usage_errors_with_a_hint(text):
    if text == "size<=12":
        assert parse_budget(text).threshold == 12  # bytes
        return
    with pytest.raises(UsageError) as caught:
        parse_budget(text)
    assert caught.value.hint or "no room" in caught.value.message


def test_certainty_looks_at_the_bad_side():
    estimate = Estimate(0.996, 0.994, 0.998, 50)
    assert parse_budget("cosine>=0.994").is_certain(estimate)
    assert not parse_budget("cosine>=0.995").is_certain(estimate)
    assert parse_budget("cosine>=0.995").met(estimate.value)
    drop = Estimate(0.1, -0.1, 0.3, 50)
    assert parse_budget("spearman_drop<=0.3").is_certain(drop)
    assert not parse_budget("spearman_drop<=0.2").is_certain(drop)
    assert not parse_budget("cosine>=0.9").met(float("nan"))
    assert parse_budget("cosine>=0.9").distance(0.85) == pytest.approx(0.05)


def test_spearman_drop_of_rows():
    gold = np.arange(10.0)
    shuffled = gold[[1, 0, *range(2, 10)]]
    rows = np.stack([gold, gold, shuffled], axis=1)
    everything = np.arange(10)
    # One swapped pair of ten: 1 - 6 * 2 / (10 * 99).
    assert spearman_drop(rows, everything) == pytest.approx(100 * 12 / 990)
    assert spearman_drop(np.stack([gold, gold, gold], axis=1), everything) == 0
    assert spearman_drop(rows, np.zeros(10, int)) == 0


def test_labelled_pairs(tmp_path):
    path = tmp_path / "pairs.tsv"
    lines = [f"{i % 5}\tone {i}\tother {i}" for i in range(25)]
    path.write_text("score\ta\tb\n" + "\n".join(lines), encoding="utf-8")
    found = read_pairs(path)
    assert (len(found.scores), found.pairs[3]) == (25, ("one 3", "other 3"))
    assert found.part([1, 3]).scores == (1.0, 3.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\ta\n", "line 1"),
        ("1\ta\tb\nx\ta\tb\n", "line 2"),
        ("1\ta\tb\n2\tc\td\n", "2 labelled pairs"),
        ("1\ta\tb\n" * 30, "different ones"),
    ],
)
def test_bad_pairs_are_named(tmp_path, text, message):
    path = tmp_path / "pairs.tsv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_pairs(path)
    with pytest.raises(DataError, match="there is no file"):
        read_pairs(tmp_path / "none.tsv")
