"""Tensors that calibrate in place of texts: what a tokenizer would never give is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeq.errors import DataError
from edgeq.pipeline.ready_feeds import ready_feeds, ready_rows

IDS = np.array([[2, 5, 6, 3, 0, 0], [2, 7, 3, 0, 0, 0]])
MASK = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]])


def test_columns_of_padding_alone_are_cut_off() -> None:
    found = ready_feeds({"input_ids": IDS.astype(np.float32), "attention_mask": MASK.astype(bool)}, 4, 8)
    np.testing.assert_array_equal(found["input_ids"], IDS[:, :4])
    np.testing.assert_array_equal(found["attention_mask"], MASK[:, :4])
    assert {array.dtype for array in found.values()} == {np.dtype(np.int64)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": IDS[:, 0]}, r"shape \[2\], expected \[samples, tokens\]"),
        ({"input_ids": IDS[:, :, None]}, r"shape \[2, 6, 1\]"),
        ({"input_ids": IDS + 0.5}, "fractions"),
        ({"input_ids": IDS - 1}, "holds -1"),
        ({"input_ids": IDS + 1}, "the token id 8; the tokenizer's are below 8"),
        ({"attention_mask": MASK[:, :4]}, "different shapes"),
        ({"attention_mask": MASK * 7}, "ones followed by zeros"),
        ({"attention_mask": MASK * 0}, "ones followed by zeros"),
        ({"attention_mask": MASK[:, ::-1]}, "ones followed by zeros"),
        ({"attention_mask": MASK * 0 + 1}, "has 6 tokens; the variants take 4"),
    ],
)
def test_what_no_tokenizer_gives_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ready_feeds({"input_ids": IDS, "attention_mask": MASK} | change, 4, 8)


def test_rows_of_a_language_model_are_the_real_tokens() -> None:
    rows = ready_rows({"input_ids": IDS, "attention_mask": MASK}, 8)
    assert [row.tolist() for row in rows] == [[2, 5, 6, 3], [2, 7, 3]]
    assert [len(row) for row in ready_rows({"input_ids": IDS}, 8)] == [6, 6]


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        (
            {"attention_mask": MASK},
            "has arrays attention_mask; the model's inputs are input_ids, attention_mask",
        ),
        ({"input_ids": IDS, "token_type_ids": IDS * 0}, "has arrays input_ids, token_type_ids"),
        ({"input_ids": IDS + 1}, "the token id 8"),
        ({"input_ids": IDS, "attention_mask": MASK[:, ::-1]}, "ones followed by zeros"),
    ],
)
def test_rows_that_no_tokenizer_gives_are_refused(feeds: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ready_rows(feeds, 8)
