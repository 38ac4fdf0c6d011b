"""A text, and a pair of texts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar, Self


@dataclass(frozen=True, slots=True)
class Text:
    """One text."""

    text: str

    kind: ClassVar[str] = "a text"

    @property
    def texts(self) -> tuple[str, ...]:
        """It alone."""
        return (self.text,)

    def content(self) -> bytes:
        """Its JSON in UTF-8."""
        return _encoded(self.text)

    def to_json(self) -> str:
        """A string."""
        return self.text

    @classmethod
    def of(cls, value: object) -> Self | None:
        """A string."""
        return cls(value) if isinstance(value, str) else None


@dataclass(frozen=True, slots=True)
class TextPair:
    """Two texts that are read together: question and context, premise and hypothesis."""

    first: str
    second: str

    kind: ClassVar[str] = "a pair of texts"

    @property
    def texts(self) -> tuple[str, ...]:
        """Both."""
        return (self.first, self.second)

    def content(self) -> bytes:
        """The JSON list of both in UTF-8."""
        return _encoded(self.to_json())

    def to_json(self) -> tuple[str, str]:
        """A list of both."""
        return (self.first, self.second)

    @classmethod
    def of(cls, value: object) -> Self | None:
        """A list or tuple of two strings."""
        match value:
            case [str() as first, str() as second]:
                return cls(first, second)
        return None


def _encoded(plain: object) -> bytes:
    # Half a character, which JSON can spell, is refused by the processor and not by the draw.
    return json.dumps(plain, ensure_ascii=False).encode("utf-8", "surrogatepass")
