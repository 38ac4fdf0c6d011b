"""How much noise a default floor allows: one amount for every kind, stated as a mean cosine of vectors.

What is measured (benchmarks/task_floors.py, all-MiniLM-L6-v2, 128 held-out texts, x86-64):

- static int8 leaves a mean cosine of 0.9983, stock dynamic int8 one of 0.953: a bundle below 0.97 has lost what edgeq
  is for. int4 leaves 0.990, plain rounding to nearest in blocks of 128 leaves 0.944; the floor of 0.93 is for models
  that take it worse.
- The loss at the 1st percentile is 2.5 to 3.2 times the mean's, whichever of the four made it. More than 4 times is a
  tail that quantization does not make by itself.

0.97 allows 17.6 times the loss of static int8, so 4.2 times its noise. The other kinds are given the same: what static
int8 costs linear heads on that embedding (its 8 principal directions, as scores, labels and classes), times 4.2 where
a metric grows with the noise and times 17.6 where it grows with its square; the sum is rounded. Stock dynamic int8
is beyond each of these bounds. From precision to precision they move as the cosines' noise does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from edgeq.types import Precision

MEAN_COSINE: Mapping[Precision, float] = {
    Precision.FP32: 0.9999,
    Precision.FP16: 0.999,
    Precision.INT8: 0.97,
    Precision.INT4: 0.93,
}
TAIL = 4.0
"""The loss at the 1st percentile over that of the mean."""
DIGITS = 2
"""Significant ones of a bound; more would say that the noise is known better than it is."""


def growing_with_noise(at_int8: float) -> dict[Precision, float]:
    """Bounds on an error that doubles with the noise: of a probability, of a score."""
    return {precision: _rounded(at_int8 * math.sqrt(_loss_over_int8(precision))) for precision in Precision}


def growing_with_its_square(at_int8: float) -> dict[Precision, float]:
    """Bounds on a loss that doubles with the noise's power: KL divergence, 1 - a correlation."""
    return {precision: _rounded(at_int8 * _loss_over_int8(precision)) for precision in Precision}


def one_minus(losses: Mapping[Precision, float]) -> dict[Precision, float]:
    """Bounds on what is lost, as bounds on what is left."""
    return {precision: round(1 - loss, 7) for precision, loss in losses.items()}


def _loss_over_int8(precision: Precision) -> float:
    return (1 - MEAN_COSINE[precision]) / (1 - MEAN_COSINE[Precision.INT8])


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
