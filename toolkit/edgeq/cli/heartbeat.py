"""Progress in logs and pipes: a line as each stage ends, and one where nothing was said for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

SILENCE_S = 8.0
"""Longest time without a line; below 10 s, since a busy machine wakes a thread late."""


class TimedStage(Protocol):
    """A stage as lines show it."""

    @property
    def title(self) -> str:
        """What it does, and what came of it."""

    @property
    def seconds(self) -> float:
        """Since it began."""

    def so_far(self) -> str:
        """What is known before it ends."""


class Heartbeat:
    """Prints what the innermost running stage is at whenever `SILENCE_S` went by without a line of ours.

    A log that is silent for minutes looks like a hung job, and CI ends those.
    """

    def __init__(
        self, console: Console, printable: Callable[[str], str], silence_s: float | None = None
    ) -> None:
        self._console = console
        self._printable = printable
        self._silence_s = SILENCE_S if silence_s is None else silence_s
        self._running: list[TimedStage] = []
        self._last = time.perf_counter()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="edgeq-heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._last = time.perf_counter()
        self._thread.start()

    def stop(self) -> None:
        """No line after this."""
        self._stopped.set()
        self._thread.join()

    @contextmanager
    def during(self, stage: TimedStage) -> Iterator[None]:
        """A stage, and its line when it ended well."""
        self._running.append(stage)
        try:
            yield
        finally:
            self._running.remove(stage)
        self._say(f"{stage.title} ({stage.seconds:.1f} s)")

    def _watch(self) -> None:
        wait = self._silence_s
        while not self._stopped.wait(wait):
            silent = time.perf_counter() - self._last
            if silent >= self._silence_s:
                # A copy: the other thread may end the stage meanwhile.
                running = self._running[-1:]
                self._say(running[0].so_far() if running else "working")
                silent = 0.0
            wait = self._silence_s - silent

    def _say(self, line: str) -> None:
        self._last = time.perf_counter()
        self._console.print(self._printable(f"  {line}"), markup=False)
