"""Datasets of the Hugging Face Hub, through the `datasets` library."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from edgeq.calibration.columns import HEAD_ROWS, Row, Table
from edgeq.errors import DataError, MissingExtraError

PREFIX = "hf:"
MAX_ROWS = 50_000
"""Rows read of a dataset: the draw must not download terabytes."""

_SPEC = re.compile(r"hf:(?P<name>[^:@]+)(@(?P<config>[^:@]+))?(:(?P<split>[^@]+))?")


def hub_table(spec: str) -> Table:
    """A split of a dataset, `hf:NAME[@CONFIG][:SPLIT]` (split `train` when left out), its first 50,000 rows.

    Streams from the Hub; without network, a copy that `datasets` has in its cache is used.

    Raises:
        MissingExtraError: `datasets` is not installed.
        DataError: the dataset cannot be had.
    """
    parts = _SPEC.fullmatch(spec)
    if parts is None:
        raise DataError(f"`{spec}` is not hf:NAME[@CONFIG][:SPLIT]")
    dataset = _open(parts["name"], parts["config"], parts["split"] or "train")

    def rows(_: Sequence[str]) -> Iterator[tuple[str, Row]]:
        try:
            for number, row in enumerate(islice(dataset, MAX_ROWS), 1):
                yield f"row {number}", row
        except Exception as error:
            raise _unavailable(parts["name"], error) from error

    head = [row for _, row in islice(rows(()), HEAD_ROWS)]
    columns = tuple(dict.fromkeys(name for row in head for name in row))
    if not columns:
        raise DataError(f"dataset `{parts['name']}` has no rows")
    return Table(spec, columns, rows)


def _open(name: str, config: str | None, split: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(f"the dataset `{name}`", "data") from error
    try:
        return datasets.load_dataset(name, config, split=split, streaming=True)
    except Exception as streaming_error:
        try:
            return datasets.load_dataset(name, config, split=split)
        except Exception:
            raise _unavailable(name, streaming_error) from streaming_error


def _unavailable(name: str, error: Exception) -> DataError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return DataError(
        f"dataset `{name}` cannot be read: {reason}",
        hint="check the name and the network, or give a local file: --calib texts.txt",
    )
