"""Drawing samples from a stream of any length.

Every sample gets a rank, a hash of its content keyed by the seed, and those with the smallest ranks are
drawn ("bottom-k sampling", Cohen and Kaplan 2007). Ranks are as good as random, so the draw is uniform over
distinct samples; it needs memory for the drawn ones only; and it does not depend on the order of files or
lines, on chunking, or on Python's hash seed.
"""

from __future__ import annotations

import hashlib
import heapq

from edgeq.samples import Sample

_TRACKED = 200_000
"""Distinct samples whose ranks are remembered to count duplicates; some 20 MB."""


def rank(content: bytes, seed: int | str) -> int:
    """A 128-bit hash of a sample's content, keyed by the seed."""
    digest = hashlib.blake2b(content, digest_size=16, key=str(seed).encode()[:64])
    return int.from_bytes(digest.digest(), "big")


class Draw:
    """Keeps the `count` samples of smallest rank.

    Args:
        count: most samples kept.
        seed: of the draw.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self.total = 0
        self.duplicates = 0
        self._kept: list[tuple[int, Sample]] = []  # a heap by negative rank: the largest rank first
        self._ranks: set[int] = set()
        self._tracked: set[int] = set()

    def add(self, sample: Sample) -> None:
        """Consider one sample."""
        self.total += 1
        own = rank(sample.content(), self.seed)
        if own in self._ranks or own in self._tracked:
            self.duplicates += 1
            return
        if len(self._tracked) < _TRACKED:
            self._tracked.add(own)
        if len(self._kept) < self.count:
            heapq.heappush(self._kept, (-own, sample))
            self._ranks.add(own)
        elif own < -self._kept[0][0]:
            dropped, _ = heapq.heapreplace(self._kept, (-own, sample))
            self._ranks.discard(-dropped)
            self._ranks.add(own)

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The samples drawn, smallest rank first."""
        return tuple(sample for _, sample in sorted(self._kept, key=lambda item: -item[0]))
