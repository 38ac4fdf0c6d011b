"""The next token of a language model, judged on running text and on golden steps."""

from __future__ import annotations

from edgeq.tasks.choices import CHOICES
from edgeq.tasks.comparison import Rows
from edgeq.tasks.distributions import DISTRIBUTION_METRICS
from edgeq.tasks.entry import Floor, Kind, Mode, TaskEntry
from edgeq.tasks.measures import Distributions
from edgeq.tasks.steps import no_steps
from edgeq.types import Precision, Role

FLOORS = (
    Floor(
        "kl_mean",
        {Precision.FP32: 1e-4, Precision.FP16: 1e-3, Precision.INT8: 0.02, Precision.INT4: 0.25},
    ),
    Floor(
        "top1_agreement",
        {Precision.FP32: 0.995, Precision.FP16: 0.99, Precision.INT8: 0.95, Precision.INT4: 0.75},
    ),
)
"""Largest mean KL divergence in nats and lowest top-1 agreement.

int8: far above what 8-bit blocks cost anywhere (0.0004 nats and 99 % on a model of 260,000 parameters). int4: plain
rounding of everything costs that model 0.11 nats and leaves 83 %; larger models lose less.
"""

NEXT_TOKEN = TaskEntry(
    kind=Kind.NEXT_TOKEN,
    does="Continues a text",
    metrics=DISTRIBUTION_METRICS,
    floors=FLOORS,
    kept=("cosine_mean", "kl_mean"),
    derived=(),
    compare=lambda head: Rows(head, Distributions),
    postprocess=no_steps,
    labelled=CHOICES,
    mode=Mode.AUTOREGRESSIVE,
    rows="tokens",
    example='--prompt "Once upon a time"',
    judged=(Role.LOGITS,),
)
