"""Batches of similar length, so that little padding is computed and memory has a bound."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy

from edgeq.processors.processor import Processor
from edgeq.samples import Sample
from edgeq.types import Feeds

MAX_TOKENS = 512
"""Padded tokens of one batch: more gains a CPU nothing, and a batch is held with all its observed tensors."""


class Batches:
    """Tokenized batches, shortest samples first; the same samples give the same batches.

    Iterates lazily, as often as wanted.

    Args:
        samples: of kinds that the preprocessor takes.
        preprocessor: turns them into feeds.
        batch_size: most samples in one batch.
        max_tokens: most padded tokens in one batch (a single longer sample still makes one).
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        preprocessor: Processor,
        batch_size: int = 32,
        *,
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        self.samples = tuple(samples)
        self.preprocessor = preprocessor
        lengths = [min(length, preprocessor.max_length) for length in preprocessor.costs(samples)]
        self.order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
        self._groups = _groups(self.order, lengths, batch_size, max_tokens)

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._groups)

    def __iter__(self) -> Iterator[tuple[Feeds, int]]:
        """Feeds and number of samples of each batch."""
        for group in self._groups:
            yield self.preprocessor([self.samples[index] for index in group]), len(group)

    def after(self, done: int) -> Batches:
        """The batches that follow the first `done` ones."""
        rest = copy(self)
        rest._groups = self._groups[done:]
        return rest

    def sample(self, position: int) -> Sample:
        """The sample at a position in the order in which batches run it."""
        return self.samples[self.order[position]]


class FeedBatches:
    """Batches of ready model inputs, in their order.

    Args:
        feeds: one array per input, first axis the samples.
        batch_size: most samples in one batch.
    """

    def __init__(self, feeds: Feeds, batch_size: int = 32) -> None:
        self.feeds = feeds
        self.batch_size = batch_size
        self._starts = range(0, len(next(iter(feeds.values()))), batch_size)

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._starts)

    def __iter__(self) -> Iterator[tuple[Feeds, int]]:
        """Feeds and number of samples of each batch."""
        for start in self._starts:
            batch = {name: array[start : start + self.batch_size] for name, array in self.feeds.items()}
            yield batch, len(next(iter(batch.values())))

    def after(self, done: int) -> FeedBatches:
        """The batches that follow the first `done` ones."""
        rest = copy(self)
        rest._starts = self._starts[done:]
        return rest


def batches_of(
    samples: Sequence[Sample],
    preprocessor: Processor,
    batch_size: int = 32,
    *,
    max_tokens: int = MAX_TOKENS,
) -> Batches:
    """Batches of `samples` sorted by length: iterates over `(feeds, sample count)`."""
    return Batches(samples, preprocessor, batch_size, max_tokens=max_tokens)


def _groups(
    order: Sequence[int], lengths: Sequence[int], batch_size: int, max_tokens: int
) -> list[list[int]]:
    groups: list[list[int]] = []
    for index in order:
        # Sorted: the newest sample is the longest, and decides what its group is padded to.
        room = min(batch_size, max_tokens // max(lengths[index], 1))
        if groups and len(groups[-1]) < room:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
