"""The table of ways to run models; a task names its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgeq.pipeline.forward.export import FORWARD
from edgeq.pipeline.generation.export import AUTOREGRESSIVE
from edgeq.pipeline.make import Way
from edgeq.tasks import Mode, mode_of
from edgeq.types import Task

if TYPE_CHECKING:
    from edgeq.pipeline.plan import ExportPlan

WAYS: Mapping[Mode, Way] = {Mode.FORWARD: FORWARD, Mode.AUTOREGRESSIVE: AUTOREGRESSIVE}


def way_of(task: Task | None) -> Way:
    """How a task's models become bundles."""
    return WAYS[mode_of(task)]


def sample_counts(plan: ExportPlan) -> tuple[int, int]:
    """How many samples an export holds out to judge, and with how many it calibrates."""
    return way_of(plan.facts.task).counts(plan.data, plan.request.calib_samples)
