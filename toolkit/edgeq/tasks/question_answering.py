"""The span of a text that answers a question."""

from __future__ import annotations

from edgeq.bundle.manifest import PostprocessKind
from edgeq.tasks.comparison import AnswerSpans
from edgeq.tasks.distributions import DISTRIBUTION_FLOORS, DISTRIBUTION_METRICS
from edgeq.tasks.entry import Kind, TaskEntry
from edgeq.tasks.measures import Distributions
from edgeq.tasks.steps import steps
from edgeq.types import Role

QUESTION_ANSWERING = TaskEntry(
    kind=Kind.QUESTION_ANSWERING,
    does="Finds the answer to a question in a text",
    metrics=("span_agreement", "span_regret_mean", *DISTRIBUTION_METRICS),
    floors=DISTRIBUTION_FLOORS,
    kept=("cosine_mean", "kl_mean"),
    derived=("cosine_mean", "cosine_min"),
    compare=lambda head: AnswerSpans(head, Distributions),
    postprocess=steps(PostprocessKind.ANSWER_SPAN, roles=(Role.START_LOGITS, Role.END_LOGITS)),
    no_labels="an answer is judged by its text, which takes rules for case, articles and punctuation",
)
