"""Targets: from the canonical graph and a plan to what a platform runs.

Adding a target is one module with a `TARGET`, and one line in the table below.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from edgeq.errors import UsageError

if TYPE_CHECKING:
    from edgeq.targets.target import Target

TARGETS: dict[str, str] = {
    "android": "edgeq.targets.android.target",
    "coreml": "edgeq.targets.coreml.target",
    "cpu": "edgeq.targets.cpu",
    "gguf": "edgeq.targets.gguf.target",
}
"""Module of every target, imported when it is asked for."""


def get_target(name: str) -> Target:
    """The target called `name`.

    Raises:
        UsageError: there is none.
    """
    if name not in TARGETS:
        raise UsageError(f"unknown target `{name}`", hint=f"--target takes {', '.join(TARGETS)}")
    return cast("Target", import_module(TARGETS[name]).TARGET)
