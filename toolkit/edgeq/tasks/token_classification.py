"""A label for every token."""

from __future__ import annotations

from edgeq.bundle.manifest import PostprocessKind
from edgeq.tasks.comparison import Rows
from edgeq.tasks.distributions import DISTRIBUTION_FLOORS, DISTRIBUTION_METRICS
from edgeq.tasks.entry import Kind, TaskEntry
from edgeq.tasks.measures import Distributions
from edgeq.tasks.steps import steps

TOKEN_CLASSIFICATION = TaskEntry(
    kind=Kind.TOKEN_CLASSIFICATION,
    does="Gives each token of a text a label",
    metrics=DISTRIBUTION_METRICS,
    floors=DISTRIBUTION_FLOORS,
    kept=("cosine_mean", "kl_mean"),
    derived=("cosine_mean", "cosine_min"),
    compare=lambda head: Rows(head, Distributions),
    postprocess=steps(PostprocessKind.ARGMAX_LABEL),
    rows="tokens",
    has_labels=True,
    no_labels="labels belong to words, and the bundle's tokenizer does not say which tokens make a word",
)
