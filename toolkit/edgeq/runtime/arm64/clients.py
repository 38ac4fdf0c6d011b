"""The system's package clients, run without privileges and with state of their own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeq.errors import EdgeqError

_TAIL_LINES = 6


@dataclass(frozen=True, slots=True)
class Clients:
    """Command lines to start each client with."""

    apt_get: tuple[str, ...]
    dpkg_deb: tuple[str, ...]
    pip: tuple[str, ...]


def find_clients() -> Clients:
    """The clients of this system.

    Raises:
        EdgeqError: one or more are not installed; the message names all of them.
    """
    found = {"apt-get": _on_path("apt-get"), "dpkg-deb": _on_path("dpkg-deb"), "pip": _find_pip()}
    missing = [name for name, command in found.items() if command is None]
    if missing:
        raise EdgeqError(
            f"the ARM64 lane's set-up needs {', '.join(f'`{name}`' for name in missing)}: not found on PATH",
            hint="use a Debian-based system or container (apt-get, dpkg), and python -m ensurepip for pip",
        )
    return Clients(apt_get=found["apt-get"] or (), dpkg_deb=found["dpkg-deb"] or (), pip=found["pip"] or ())


def run_client(
    command: Sequence[str], purpose: str, *, folder: Path, env: Mapping[str, str] | None = None
) -> str:
    """Run a client in `folder` and return its stdout.

    Raises:
        EdgeqError: it ended with a status other than 0; the message has the end of what it said.
    """
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "LC_ALL": "C", **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise EdgeqError(
            f"{purpose} failed: `{Path(command[0]).name}` ended with status {done.returncode}\n"
            f"{last_lines(done.stderr or done.stdout)}",
            hint="check the network and the package sources, then run the same command again: it continues",
        )
    return done.stdout


def last_lines(text: str, count: int = _TAIL_LINES) -> str:
    """The last lines of a client's output, indented for an error message."""
    lines = [line for line in text.splitlines() if line.strip()]
    return "\n".join(f"  {line}" for line in lines[-count:])


def _on_path(name: str) -> tuple[str, ...] | None:
    path = shutil.which(name)
    return (path,) if path else None


def _find_pip() -> tuple[str, ...] | None:
    # `pip download` works across interpreters, so any pip will do when this environment has none.
    return _own_pip() or _on_path("pip3") or _on_path("pip")


def _own_pip() -> tuple[str, ...] | None:
    return (sys.executable, "-m", "pip") if importlib.util.find_spec("pip") else None
