"""The span of a text that answers a question."""

from __future__ import annotations

from collections.abc import Sequence

from edgeq.bundle.manifest import PostprocessKind
from edgeq.samples import Sample, Text, TextPair
from edgeq.tasks.comparison import AnswerSpans
from edgeq.tasks.distributions import DISTRIBUTION_FLOORS, DISTRIBUTION_METRICS
from edgeq.tasks.entry import Kind, TaskEntry, Vocabulary
from edgeq.tasks.measures import Distributions
from edgeq.tasks.steps import steps
from edgeq.types import Role


def pairs_of(samples: Sequence[Sample], _vocabulary: Vocabulary) -> tuple[Sample, ...]:
    """Pairs as they are; single texts each with the next one, shorter one first."""
    texts = [sample.text for sample in samples if isinstance(sample, Text)]
    return tuple(samples) if len(texts) < len(samples) else paired(texts)


def paired(texts: Sequence[str]) -> tuple[Sample, ...]:
    """Each text with the next one, shorter one first."""
    shifted = [*texts[1:], *texts[:1]]
    pairs = (sorted(pair, key=len) for pair in zip(texts, shifted, strict=True))
    return tuple(TextPair(question, context) for question, context in pairs)


QUESTION_ANSWERING = TaskEntry(
    kind=Kind.QUESTION_ANSWERING,
    does="Finds the answer to a question in a text",
    metrics=("span_agreement", "span_regret_mean", *DISTRIBUTION_METRICS),
    floors=DISTRIBUTION_FLOORS,
    kept=("cosine_mean", "kl_mean"),
    derived=("cosine_mean", "cosine_min"),
    compare=lambda head: AnswerSpans(head, Distributions),
    postprocess=steps(PostprocessKind.ANSWER_SPAN, roles=(Role.START_LOGITS, Role.END_LOGITS)),
    rows="questions",
    arrange=pairs_of,
    example='--text "Who sent the parcel?" --pair "The parcel was sent by Ada."',
    no_labels="an answer is judged by its text, which takes rules for case, articles and punctuation",
)
