"""Ready model inputs from .npz files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeq.arrays import model_inputs, read_arrays
from edgeq.calibration.data import CalibrationData, digest_of, feeds_contents, feeds_length
from edgeq.calibration.sampling import rank
from edgeq.errors import DataError
from edgeq.types import Array, Feeds

_ONE_ARRAY = b"\x93NUMPY"


def load_feeds(path: Path, count: int, seed: int) -> CalibrationData:
    """Draw samples from an .npz file with one array per model input, first axis the samples.

    Raises:
        DataError: the file is damaged, empty, holds something else than numbers, or its arrays differ in
        length.
    """
    feeds = _read(path)
    contents = feeds_contents(feeds)
    ranks: dict[int, int] = {}
    for index, content in enumerate(contents):
        ranks.setdefault(rank(content, seed), index)
    drawn = [ranks[own] for own in sorted(ranks)[:count]]
    return CalibrationData(
        samples=(),
        source=path.name,
        sha256=digest_of([contents[index] for index in drawn]),
        total=len(contents),
        feeds={name: array[drawn] for name, array in feeds.items()},
        duplicates=len(contents) - len(ranks),
        columns=tuple(sorted(feeds)),
    )


def _read(path: Path) -> Feeds:
    try:
        with path.open("rb") as stream:
            if stream.read(len(_ONE_ARRAY)) == _ONE_ARRAY:
                raise DataError(
                    f"`{path}` is one array, expected an .npz file with one array per model input"
                )
        feeds = model_inputs(read_arrays(path))
    except (OSError, ValueError) as error:
        raise DataError(f"`{path}` is not a readable .npz file: {error}") from error
    if not feeds:
        raise DataError(f"`{path}` holds no arrays, expected one per model input")
    for name, array in feeds.items():
        _check(path, name, array)
    lengths = {name: len(array) for name, array in feeds.items()}
    if len(set(lengths.values())) > 1:
        sizes = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(f"arrays of `{path}` hold different numbers of samples: {sizes}")
    if feeds_length(feeds) == 0:
        raise DataError(f"`{path}` holds no samples")
    return feeds


def _check(path: Path, name: str, array: Array) -> None:
    if array.dtype.kind not in "biuf":
        raise DataError(f"array `{name}` of `{path}` has type {array.dtype}, expected numbers")
    if array.ndim == 0:
        raise DataError(
            f"array `{name}` of `{path}` is a single number, expected samples along its first axis"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0])
        raise DataError(f"array `{name}` of `{path}` is NaN or infinite in sample {bad + 1}")
