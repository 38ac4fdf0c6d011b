"""Which positions of a batch count: those of real tokens, those at the mask token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeq.bundle.golden import GoldenCase, is_per_token_vector
from edgeq.text_inputs import ATTENTION_MASK, INPUT_IDS
from edgeq.types import Array, Feeds, TensorSpec


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one batch.

    Attributes:
        ids: `[batch, sequence]`; None for models that take none.
        mask: `[batch, sequence]`, nonzero at real tokens; None when nothing is padded.
        positions: where per-token vectors are recorded; None for everywhere.
    """

    ids: Array | None
    mask: Array | None
    positions: Array | None = None

    @classmethod
    def of_feeds(cls, feeds: Feeds) -> Tokens:
        """Of a batch whose outputs are whole."""
        return cls(feeds.get(INPUT_IDS), feeds.get(ATTENTION_MASK))

    @classmethod
    def of_case(cls, case: GoldenCase) -> Tokens:
        """Of a golden case, which may record some positions only."""
        ids, mask = case.feeds.get(INPUT_IDS), case.feeds.get(ATTENTION_MASK)
        # The mask of a decoding step covers the past too and pads nothing.
        covers_past = mask is not None and ids is not None and mask.shape != ids.shape
        return cls(ids, None if covers_past else mask, case.positions)

    @property
    def lengths(self) -> Array:
        """Real tokens of each sample, `[batch]`.

        Raises:
            ValueError: the model takes no tokens.
        """
        if self.mask is not None:
            counts: Array = self.mask.sum(axis=1)
            return counts
        if self.ids is None:
            raise ValueError("a batch without token ids has no lengths in tokens")
        return np.full(len(self.ids), self.ids.shape[1])

    def mask_of(self, spec: TensorSpec) -> Array | None:
        """Real tokens at the recorded positions of an output."""
        return self._kept(spec, self.mask)

    def ids_of(self, spec: TensorSpec) -> Array | None:
        """Token ids at the recorded positions of an output."""
        return self._kept(spec, self.ids)

    def _kept(self, spec: TensorSpec, tokens: Array | None) -> Array | None:
        if tokens is None or self.positions is None or not is_per_token_vector(spec):
            return tokens
        kept: Array = tokens[:, self.positions]
        return kept
