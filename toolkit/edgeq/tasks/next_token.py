"""The next token of a language model: what its golden steps are held to.

Not in the table: floors and metrics of a language model come from running text (`pipeline.language_quality`).
"""

from __future__ import annotations

from edgeq.tasks.comparison import Rows
from edgeq.tasks.distributions import DISTRIBUTION_METRICS
from edgeq.tasks.entry import Kind, TaskEntry
from edgeq.tasks.measures import Distributions
from edgeq.tasks.steps import no_steps

NEXT_TOKEN = TaskEntry(
    kind=Kind.NEXT_TOKEN,
    does="Goes on with a text",
    metrics=DISTRIBUTION_METRICS,
    floors=(),
    kept=("cosine_mean", "kl_mean"),
    derived=(),
    compare=lambda head: Rows(head, Distributions),
    postprocess=no_steps,
    no_labels="language models are judged on running text: --data",
)
