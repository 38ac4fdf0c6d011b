"""What a sample offers, whatever it is."""

from __future__ import annotations

from typing import ClassVar, Protocol, Self


class Sample(Protocol):
    """One thing that a model reads; hashable, and equal to every other of the same kind and content."""

    kind: ClassVar[str]
    """What it is, for people, with its article."""

    @property
    def texts(self) -> tuple[str, ...]:
        """Its texts in their order; empty for one that is no text."""

    def content(self) -> bytes:
        """What is ranked and hashed: the same for equal samples, and different for others of all kinds."""

    def to_json(self) -> object:
        """Its form in JSON and in messages, which `of` takes back."""

    @classmethod
    def of(cls, value: object) -> Self | None:
        """A plain value, or what JSON holds, as a sample of this kind; None where it is none."""
