"""What `edgeq validate` is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.errors import UsageError
from edgeq.runtime.executors import PLACES

if TYPE_CHECKING:
    from edgeq.comparison import GateRequest
    from edgeq.runtime.adb import AdbOptions

LIVE_SAMPLES = 128
"""Texts of a live comparison."""


@dataclass(frozen=True, slots=True)
class ValidationRequest:
    """What to validate and against what."""

    bundle: Path
    against: str | None = None
    data: str | None = None
    data_column: str | None = None
    on: str = "native"
    cpu: str = "cortex-a76"
    variants: tuple[str, ...] = ()
    gates: tuple[GateRequest, ...] = ()
    force: bool = False
    seed: int = 1
    adb: AdbOptions | None = None
    labels: Path | None = None

    def check(self) -> None:
        """Refuse what no bundle can be asked for.

        Raises:
            UsageError: an unknown place, or texts with nothing to compare on them.
        """
        if self.on not in PLACES:
            raise UsageError(f"unknown place `{self.on}`", hint=f"--on takes {', '.join(PLACES)}")
        if self.data and not self.against:
            raise UsageError(
                "--data needs --against: without the original there is nothing to compare new texts with"
            )
