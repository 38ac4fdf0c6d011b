"""What heads with a softmax share: metrics and floors of probabilities."""

from __future__ import annotations

from edgeq.tasks.embedding import VECTOR_METRICS
from edgeq.tasks.entry import Floor
from edgeq.types import Precision

DISTRIBUTION_METRICS = (
    "top1_agreement",
    "kl_mean",
    "kl_p99",
    "probability_error_mean",
    "probability_error_p99",
    "regret_mean",
    *VECTOR_METRICS,
)


def distribution_floors() -> tuple[Floor, ...]:
    """Of the divergence and its tail."""
    return (
        Floor(
            "kl_mean",
            {Precision.FP32: 1e-6, Precision.FP16: 1e-4, Precision.INT8: 0.02, Precision.INT4: 0.08},
        ),
        Floor(
            "kl_p99",
            {Precision.FP32: 1e-5, Precision.FP16: 1e-3, Precision.INT8: 0.2, Precision.INT4: 0.8},
        ),
    )
