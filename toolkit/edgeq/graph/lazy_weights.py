"""Weights that are computed when they are asked for, and kept by nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from edgeq.types import FloatArray


class LazyWeights(Mapping[str, FloatArray]):
    """Weights `[in, out]` by layer name.

    Args:
        read: gives one, by layer name.
    """

    def __init__(self, read: Mapping[str, Callable[[], FloatArray]]) -> None:
        self.read = dict(read)

    def __getitem__(self, name: str) -> FloatArray:
        """One weight, computed anew each time."""
        return self.read[name]()

    def __iter__(self) -> Iterator[str]:
        """Layer names."""
        return iter(self.read)

    def __len__(self) -> int:
        """Number of weights."""
        return len(self.read)

    def __or__(self, other: LazyWeights) -> LazyWeights:
        """These and others, which win."""
        return LazyWeights(self.read | other.read)

    def only(self, names: Iterable[str]) -> LazyWeights:
        """Some of them."""
        return LazyWeights({name: self.read[name] for name in names})
