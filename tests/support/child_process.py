"""A Python process that works until a test ends it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def start_child(script: str, destination: Path) -> subprocess.Popen[str]:
    """Run a script that is given a path, and return once it printed `ready`."""
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(destination)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child
