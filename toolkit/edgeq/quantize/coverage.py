"""How well the calibration data covers what it stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeq.processors.processor import Processor
from edgeq.quantize.observers.ranges import clipped_share
from edgeq.quantize.statistics import Statistics
from edgeq.samples import Sample


@dataclass(frozen=True, slots=True)
class Coverage:
    """A short report on calibration data.

    Attributes:
        samples: number of samples.
        tokens_min: shortest sample in tokens, before truncation.
        tokens_median: median length.
        tokens_p95: length that 95 % of the samples do not exceed.
        tokens_max: longest sample.
        max_length: tokens the model takes.
        truncated_share: share of the samples longer than that.
        clipping: share of values outside the chosen range, by tensor.
    """

    samples: int
    tokens_min: int
    tokens_median: int
    tokens_p95: int
    tokens_max: int
    max_length: int
    truncated_share: float
    clipping: Mapping[str, float]


def coverage(
    samples: Sequence[Sample],
    preprocessor: Processor,
    statistics: Statistics | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> Coverage:
    """Report on samples and, with statistics and ranges `(lo, hi)` by tensor, on what the ranges cut off.

    Percentiles are lengths of real samples (the nearest rank above), never between two.

    Raises:
        ValueError: there are no samples, or ranges without statistics.
    """
    lengths = np.asarray(preprocessor.costs(samples))
    if len(lengths) == 0:
        raise ValueError("coverage needs at least one sample")
    if ranges and statistics is None:
        raise ValueError("clipping needs the statistics the ranges were chosen from")
    return Coverage(
        len(lengths),
        int(lengths.min()),
        int(np.percentile(lengths, 50, method="inverted_cdf")),
        int(np.percentile(lengths, 95, method="inverted_cdf")),
        int(lengths.max()),
        preprocessor.max_length,
        float(np.mean(lengths > preprocessor.max_length)),
        {
            name: clipped_share(statistics[name].histogram, lo, hi)
            for name, (lo, hi) in (ranges or {}).items()
            if statistics is not None
        },
    )
