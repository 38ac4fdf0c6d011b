"""The word behind a mask."""

from __future__ import annotations

from collections.abc import Sequence

from edgeq.bundle.manifest import PostprocessKind
from edgeq.samples import Sample, Text
from edgeq.tasks.comparison import AtMasks
from edgeq.tasks.distributions import DISTRIBUTION_FLOORS, DISTRIBUTION_METRICS
from edgeq.tasks.entry import Kind, TaskEntry, Vocabulary
from edgeq.tasks.measures import Distributions
from edgeq.tasks.steps import steps


def masked(samples: Sequence[Sample], vocabulary: Vocabulary) -> tuple[Sample, ...]:
    """Single texts with one word each replaced by the mask token; as they are where there is none, or one already."""
    ids = vocabulary.special_token_ids
    if "mask_token" not in ids:
        return tuple(samples)
    token = vocabulary.id_to_token(ids["mask_token"])
    if token not in vocabulary.tokens(Text(token)):
        return tuple(samples)
    return tuple(_with_mask(sample, token, index) for index, sample in enumerate(samples))


def _with_mask(sample: Sample, token: str, index: int) -> Sample:
    """Another word from text to text, so that masks stand everywhere."""
    if not isinstance(sample, Text) or token in sample.text or not (words := sample.text.split()):
        return sample
    place = index % len(words)
    return Text(" ".join([*words[:place], token, *words[place + 1 :]]))


FILL_MASK = TaskEntry(
    kind=Kind.FILL_MASK,
    does="Guesses the word behind a mask",
    metrics=DISTRIBUTION_METRICS,
    floors=DISTRIBUTION_FLOORS,
    kept=("cosine_mean", "kl_mean"),
    derived=("cosine_mean", "cosine_min"),
    compare=lambda head: AtMasks(head, Distributions),
    postprocess=steps(PostprocessKind.TOP_TOKENS, top_k=5),
    rows="masked words",
    arrange=masked,
    example='--text "The {mask} is on the table."',
    no_labels="a fill-mask model is judged by what it is trained further for, or by --against on texts with masks",
)
