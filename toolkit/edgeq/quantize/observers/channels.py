"""Per-channel extremes and moments, and on request the Gram matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeq.types import Array

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """What was seen in each channel.

    Sums are float64: adding `n` terms in any order changes them by at most `n * 2**-53` of the sum of
    magnitudes.

    Attributes:
        rows: positions seen, the same for every channel.
        minimum: `[channels]`, exact.
        maximum: `[channels]`, exact.
        total: sum of values, `[channels]`.
        square_total: sum of squares, `[channels]`.
        gram: `X^T X` over all rows, `[channels, channels]`, when asked for.
    """

    rows: int
    minimum: Float64Array
    maximum: Float64Array
    total: Float64Array
    square_total: Float64Array
    gram: Float64Array | None = None

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.minimum)

    @property
    def absmax(self) -> Float64Array:
        """Largest magnitude of each channel."""
        return np.maximum(-self.minimum, self.maximum)

    @property
    def mean(self) -> Float64Array:
        """E[x] of each channel."""
        return self.total / self.rows

    @property
    def mean_square(self) -> Float64Array:
        """E[x^2] of each channel, what llama.cpp calls the importance matrix."""
        return self.square_total / self.rows

    def merge(self, other: ChannelStatistics) -> ChannelStatistics:
        """Statistics of both sets of rows.

        Raises:
            ValueError: the numbers of channels differ, or only one side has a Gram matrix.
        """
        if self.channels != other.channels:
            raise ValueError(f"cannot merge {self.channels} channels with {other.channels}")
        return ChannelStatistics(
            self.rows + other.rows,
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
            self.total + other.total,
            self.square_total + other.square_total,
            _merge_gram(self.gram, other.gram),
        )


def channel_statistics(rows: Array, *, gram: bool = False) -> ChannelStatistics:
    """Statistics of `rows` `[n, channels]` of float32 or float64, n >= 1.

    Raises:
        ValueError: a value is NaN or infinite.
    """
    lowest, highest = rows.min(axis=0).astype(np.float64), rows.max(axis=0).astype(np.float64)
    if not (np.isfinite(lowest).all() and np.isfinite(highest).all()):
        raise ValueError("statistics need finite values, got NaN or infinity")
    return ChannelStatistics(
        len(rows),
        # Adding 0.0 turns -0.0 into 0.0, so that equal data gives equal bytes.
        lowest + 0.0,
        highest + 0.0,
        np.add.reduce(rows, axis=0, dtype=np.float64),
        np.einsum("nc,nc->c", rows, rows, dtype=np.float64),
        _gram(rows) if gram else None,
    )


def _gram(rows: Array) -> Float64Array:
    wide = rows.astype(np.float64)
    product: Float64Array = wide.T @ wide
    return product


def _merge_gram(left: Float64Array | None, right: Float64Array | None) -> Float64Array | None:
    if left is None and right is None:
        return None
    if left is None or right is None:
        raise ValueError("cannot merge statistics with and without a Gram matrix")
    return left + right
