"""Batches of texts: how they are filled up, and full ones to measure with."""

from __future__ import annotations

import numpy as np

from edgeq.graph.component import SEQUENCE, Padding
from edgeq.text_inputs import ATTENTION_MASK, INPUT_IDS, TOKEN_TYPE_IDS
from edgeq.types import Array, Feeds

TEXT_PADDING = Padding(SEQUENCE, ATTENTION_MASK)
"""Texts are filled up with the padding token, where the mask is zero."""


def full_batch(feeds: Feeds, tokens: int, batch: int = 1) -> dict[str, Array]:
    """A full batch of real token ids, repeated or cut to `[batch, tokens]`, nothing padded."""
    ids = np.resize(feeds[INPUT_IDS][feeds[ATTENTION_MASK].astype(bool)], (batch, tokens))
    filled = {INPUT_IDS: ids, ATTENTION_MASK: np.ones_like(ids), TOKEN_TYPE_IDS: np.zeros_like(ids)}
    return {name: filled[name] for name in feeds}
