"""Which tasks' models write token by token."""

from __future__ import annotations

from edgeq.types import Task


def is_generative(task: Task) -> bool:
    """Whether a task's models take a prompt and go on with it; the others give outputs in one run."""
    return task is Task.TEXT_GENERATION
