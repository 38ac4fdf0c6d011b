"""Amounts of memory."""

from __future__ import annotations

import pytest

from edgeq.errors import UsageError
from edgeq.pipeline.advise import megabytes, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GB", 4_000_000_000),
        ("512MB", 512_000_000),
        ("3.5GiB", 3_758_096_384),
        (" 2 gb ", 2_000_000_000),
        ("1MiB", 1_048_576),
        ("100kb", 100_000),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "4", "4 G B", "-4GB", "4Gb/s", "nan GB", "1e9GB", "4PB", "٤GB"])
def test_what_is_no_size(text):
    with pytest.raises(UsageError, match="expected a number and a unit"):
        parse_size(text)


def test_a_missing_unit_is_suggested():
    with pytest.raises(UsageError) as caught:
        parse_size("4")
    assert caught.value.hint == "--ram 4GB"


def test_nothing_is_refused():
    with pytest.raises(UsageError, match="more than nothing"):
        parse_size("0GB")


@pytest.mark.parametrize(
    ("size", "text"),
    [(90_326_893, "90.3 MB"), (123e6, "123 MB"), (4.1e9, "4.1 GB"), (999.9e6, "1 GB"), (13.46e6, "13.5 MB")],
)
def test_shown(size, text):
    assert megabytes(size) == text
