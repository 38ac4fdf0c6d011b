"""Everything observed of one tensor: its histogram and its channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeq.quantize.observers.channels import ChannelStatistics, Float64Array, channel_statistics
from edgeq.quantize.observers.histogram import Histogram, histogram_of
from edgeq.types import Array


@dataclass(frozen=True, slots=True)
class TensorStatistics:
    """What calibration saw of one tensor, padding excluded.

    The histogram, the extremes and the counts are exact and independent of batching; sums are float64.
    """

    histogram: Histogram
    channels: ChannelStatistics

    @property
    def min(self) -> float:
        """Smallest value."""
        return self.histogram.minimum

    @property
    def max(self) -> float:
        """Largest value."""
        return self.histogram.maximum

    @property
    def count(self) -> int:
        """Number of values."""
        return self.histogram.count

    @property
    def rows(self) -> int:
        """Number of positions, the count of values in each channel."""
        return self.channels.rows

    @property
    def channel_min(self) -> Float64Array:
        """Smallest value of each channel, `[channels]`."""
        return self.channels.minimum

    @property
    def channel_max(self) -> Float64Array:
        """Largest value of each channel, `[channels]`."""
        return self.channels.maximum

    @property
    def channel_absmax(self) -> Float64Array:
        """Largest magnitude of each channel, `[channels]`."""
        return self.channels.absmax

    @property
    def channel_mean(self) -> Float64Array:
        """E[x] of each channel, `[channels]`."""
        return self.channels.mean

    @property
    def channel_mean_square(self) -> Float64Array:
        """E[x^2] of each channel, `[channels]`."""
        return self.channels.mean_square

    @property
    def gram(self) -> Float64Array | None:
        """`X^T X` `[channels, channels]`, None unless it was asked for."""
        return self.channels.gram

    def merge(self, other: TensorStatistics) -> TensorStatistics:
        """Statistics of both runs; histogram and extremes exactly."""
        return TensorStatistics(self.histogram.merge(other.histogram), self.channels.merge(other.channels))


def tensor_statistics(rows: Array, *, gram: bool = False) -> TensorStatistics:
    """Statistics of `rows` `[n, channels]` of floating-point values, n >= 1.

    Raises:
        ValueError: a value is NaN or infinite, or the dtype is not floating point.
    """
    if not np.issubdtype(rows.dtype, np.floating):
        raise ValueError(f"statistics need floating-point values, got {rows.dtype}")
    values = rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float32)
    channels = channel_statistics(values, gram=gram)
    histogram = histogram_of(
        values, lowest=float(channels.minimum.min()), highest=float(channels.maximum.max())
    )
    return TensorStatistics(histogram, channels)
