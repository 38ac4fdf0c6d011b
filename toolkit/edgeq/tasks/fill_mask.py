"""The word behind a mask."""

from __future__ import annotations

from edgeq.bundle.manifest import PostprocessKind
from edgeq.tasks.comparison import AtMasks
from edgeq.tasks.distributions import DISTRIBUTION_FLOORS, DISTRIBUTION_METRICS
from edgeq.tasks.entry import Kind, TaskEntry
from edgeq.tasks.measures import Distributions
from edgeq.tasks.steps import steps

FILL_MASK = TaskEntry(
    kind=Kind.FILL_MASK,
    does="Guesses the word behind a mask",
    metrics=DISTRIBUTION_METRICS,
    floors=DISTRIBUTION_FLOORS,
    kept=("cosine_mean", "kl_mean"),
    derived=("cosine_mean", "cosine_min"),
    compare=lambda head: AtMasks(head, Distributions),
    postprocess=steps(PostprocessKind.TOP_TOKENS, top_k=5),
    no_labels="a fill-mask model is judged by what it is trained further for, or by --against on texts with masks",
)
