"""Chat templates rendered in another process, which the system ends at a second or 400 MB where it can."""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from edgeq.errors import DataError

SCRIPT = Path(__file__).with_name("template_script.py")
WALL_SECONDS = 20.0
"""Where the process does not end itself: a machine that is very busy, or Windows."""
REFUSES = "the chat template refuses these messages: "
"""Before what a template says with `raise_exception`: all other errors are worded by Jinja or Python."""


class TemplateProcess:
    """The process; started at the first template, kept for the next ones, started again after one that ended it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def render(self, source: str, context: Mapping[str, Any], now: datetime | None) -> str:
        """What a template writes.

        Args:
            source: Jinja.
            context: JSON values by name.
            now: the time templates are told; the user's clock when left out.

        Raises:
            DataError: the template is malformed, fails, refuses, or takes more than it may.
        """
        request = {"source": source, "context": context, "now": now and now.isoformat()}
        with self._lock:
            answer = self._ask(json.dumps(request))
        if "text" in answer:
            return str(answer["text"])
        raise DataError(_words(answer))

    def close(self) -> None:
        """End it."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _ask(self, request: str) -> dict[str, Any]:
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        clock = threading.Timer(WALL_SECONDS, process.kill)
        clock.start()
        try:
            process.stdin.write(request + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        except BaseException:  # Ctrl-C: what it would answer belongs to no later question
            self.close()
            raise
        finally:
            clock.cancel()
        if not line.endswith("\n"):  # nothing, or what was written until it was ended
            self.close()
            return {"ended": True}
        found: dict[str, Any] = json.loads(line)
        return found

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            command = [sys.executable, "-I", "-S", str(SCRIPT), json.dumps(sys.path)]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, encoding="utf-8"
            )
        return self._process


def _words(answer: Mapping[str, Any]) -> str:
    match answer:
        case {"malformed": what}:
            return f"the chat template is not valid Jinja, {what}"
        case {"refused": what}:
            return f"{REFUSES}{what}"
        case {"failed": what}:
            return f"the chat template fails: {what}"
        case {"length": length}:
            return f"the chat template wrote {length} characters, far more than any chat has"
    return "the chat template takes more than the second or the memory it may have"


templates = TemplateProcess()
"""Of this Python process."""
atexit.register(templates.close)
