"""Standard streams and signals as users have them: closed, cut off, in another encoding, terminated."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import Any, TextIO


class SurvivingStream:
    """A text stream that a reader may leave: what is written afterwards is dropped, the work goes on.

    `edgeq inspect BUNDLE | head` is a success, and `edgeq export 2>&1 | head` must still write its bundle. Typer would
    end the command with 1 for either.

    Args:
        stream: written to.
        dropped: errors that are no reason to stop; others go through.
    """

    def __init__(self, stream: TextIO, dropped: type[OSError]) -> None:
        self._stream = stream
        self._dropped = dropped

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or drop when nobody reads."""
        try:
            return self._stream.write(text)
        except self._dropped:
            point_at_nothing(self._stream)
            return len(text)

    def flush(self) -> None:
        """Flush, or drop when nobody reads."""
        try:
            self._stream.flush()
        except self._dropped:
            point_at_nothing(self._stream)


def prepare_streams() -> None:
    """Open what the caller closed, let no character stop the output, and survive readers that go away."""
    # Python leaves None where the caller closed the stream (`>&-`).
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")
    # A full disk behind stdout is an error, since data are lost; behind stderr it is progress that is lost.
    sys.stdout = SurvivingStream(sys.stdout, BrokenPipeError)
    sys.stderr = SurvivingStream(sys.stderr, OSError)


def read_stdin() -> str:
    """All of standard input.

    Raises:
        DataError: it is not UTF-8.
    """
    from edgeq.calibration.lines import decode_text

    return decode_text(sys.stdin.buffer.read(), "stdin")


def point_at_nothing(stream: TextIO) -> None:
    """Send what is still buffered nowhere, so that Python does not complain at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def exit_on_termination() -> None:
    """SIGTERM and SIGHUP end the command through SystemExit, so that `with` blocks remove temporary files."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # nohup ignores SIGHUP, and means it.
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _exit)


def _exit(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)
