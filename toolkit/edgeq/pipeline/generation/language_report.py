"""What repeating the record of a language model's bundle found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

SHOWN = 3
"""Differences of a kind that one line names."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is not as it was recorded: of what kind, and what."""

    kind: str
    what: str


@dataclass(frozen=True, slots=True)
class LanguageReport:
    """What was repeated.

    Attributes:
        repeated: how many by kind.
        differences: what is another now.
        notices: what was not repeated, and why.
    """

    repeated: Mapping[str, int] = field(default_factory=dict)
    differences: tuple[Difference, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def failures(self) -> list[str]:
        """The differences, of each kind some and the number of the rest."""
        by_kind: dict[str, list[str]] = {}
        for item in self.differences:
            by_kind.setdefault(item.kind, []).append(item.what)
        return [text for kind, found in by_kind.items() for text in _shortened(kind, found)]

    def to_json(self) -> dict[str, Any]:
        """As `validate --json` prints it."""
        return {
            "repeated": dict(self.repeated),
            "different": [{"kind": item.kind, "what": item.what} for item in self.differences],
            "notices": list(self.notices),
        }

    def extended(self, kind: str, count: int, differences: Sequence[str]) -> LanguageReport:
        """With more that was repeated."""
        repeated = {**self.repeated, kind: self.repeated.get(kind, 0) + count}
        more = tuple(Difference(kind, what) for what in differences)
        return replace(self, repeated=repeated, differences=(*self.differences, *more))


def _shortened(kind: str, found: Sequence[str]) -> Iterator[str]:
    yield from found[:SHOWN]
    if len(found) > SHOWN:
        yield f"{len(found) - SHOWN} more {kind}"
