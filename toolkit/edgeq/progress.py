"""How long work reports on itself: stages with an optional total, notices, and a silent default."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Stage(Protocol):
    """A running stage."""

    note: str
    """What came of it, shown when it ends."""

    def advance(self, count: int = 1) -> None:
        """`count` more units of the stage's total are done."""


class Progress(Protocol):
    """Where stages and notices go."""

    def stage(self, description: str, total: int | None = None) -> AbstractContextManager[Stage]:
        """A named stage around a piece of work."""

    def notice(self, message: str) -> None:
        """One line a user should see."""


class SilentStage:
    """Counts nothing."""

    def __init__(self) -> None:
        self.note = ""

    def advance(self, count: int = 1) -> None:
        """Nothing."""


class SilentProgress:
    """The default of the Python API."""

    @contextmanager
    def stage(self, description: str, total: int | None = None) -> Iterator[SilentStage]:
        """A stage that prints nothing."""
        yield SilentStage()

    def notice(self, message: str) -> None:
        """Nothing."""
