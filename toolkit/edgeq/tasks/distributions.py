"""What heads with a softmax share: metrics and floors of probabilities."""

from __future__ import annotations

from edgeq.metrics import VECTOR_METRICS
from edgeq.tasks.entry import Floor
from edgeq.tasks.noise import growing_with_its_square

DISTRIBUTION_METRICS = (
    "top1_agreement",
    "kl_mean",
    "kl_p99",
    "probability_error_mean",
    "probability_error_p99",
    "regret_mean",
    *VECTOR_METRICS,
)


DISTRIBUTION_FLOORS = (
    Floor("kl_mean", growing_with_its_square(0.04)),
    Floor("kl_p99", growing_with_its_square(0.2)),
)
"""Static int8 costs 0.0024 and 0.012 nats where eight classes are of logits with a deviation of 4; dynamic 0.069, 0.34.

What the bounds let happen: by Pinsker's inequality no event's probability moves by more than sqrt(KL / 2), 14 points on
average and 32 in one text of a hundred.
"""
